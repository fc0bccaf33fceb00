"""Ids written into the stores directly are found there by the engine's own store."""

from pathlib import Path

import pytest

from benchmarks import remembered
from benchmarks.remembered import prefill, store_of
from rollup_engine.config.settings import Settings
from rollup_engine.dedup.store import RocksIds
from rollup_engine.dedup.verdicts import KEY_BYTES, last_seen_ms

IDS, PARTITIONS, AT_MS = 900, 3, 1_760_000_000_000


def test_every_store_holds_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_FILE_IDS", 100)  # several files
    settings = Settings(state_dir=tmp_path, partitions=PARTITIONS)
    prefill(settings, IDS, AT_MS)
    step = (1 << 8 * KEY_BYTES) // (IDS // PARTITIONS + 1)
    for partition in range(PARTITIONS):
        store = RocksIds(store_of(settings, partition))
        keys = [(number * step + partition + 1).to_bytes(KEY_BYTES, "big") for number in range(IDS // PARTITIONS)]
        assert [last_seen_ms(value) for value in store.get(keys) if value is not None] == [AT_MS] * len(keys)
        assert store.get([b"x" * KEY_BYTES]) == [None]
        assert store.incarnation  # of a life that is over: the engine keeps the ids, and begins at its topic's start
        assert store.position == 0
        store.close()
    assert not list(tmp_path.rglob("prefill"))
