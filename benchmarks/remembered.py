"""Ids remembered from before, without having to send them: the id stores filled directly.

Keys are spread evenly over all there are and written in order as sorted files, which RocksDB takes in whole; so 100
million take minutes. The engine takes such a store for one of another life of its events topic: ids stay, and it starts
at position 0.
"""

import shutil
from pathlib import Path

from rocksdict import Rdict, SstFileWriter

from rollup_engine.config.settings import Settings
from rollup_engine.dedup.store import RocksIds, _options
from rollup_engine.dedup.verdicts import KEY_BYTES, encode

_FILE_IDS = 2_000_000


def store_of(settings: Settings, partition: int) -> Path:
    """Where a worker with these settings keeps the ids of an events partition."""
    return settings.state_dir / "ids" / settings.app_id / str(partition)


def prefill(settings: Settings, ids: int, at_ms: int) -> None:
    """Write that many ids, last seen at `at_ms`, into the stores of all partitions. No worker may run."""
    for partition in range(settings.partitions):
        directory = store_of(settings, partition)
        made = RocksIds(directory)
        made.write([], [], 0, "prefilled")  # names the format, and a life of the topic that is over
        made.close()
        _ingest(directory / "0", ids // settings.partitions, partition, encode(((partition, at_ms),)))


def _ingest(path: Path, ids: int, salt: int, value: bytes) -> None:
    step = (1 << 8 * KEY_BYTES) // (ids + 1)
    files: list[str] = []
    parts = path.parent / "prefill"
    parts.mkdir()
    for first in range(0, ids, _FILE_IDS):
        writer = SstFileWriter(options=_options())  # filters and cache of the engine's own files
        files.append(str(parts / f"{first}.sst"))
        writer.open(files[-1])
        for number in range(first, min(first + _FILE_IDS, ids)):
            writer[(number * step + salt + 1).to_bytes(KEY_BYTES, "big")] = value
        writer.finish()
    database = Rdict(str(path), _options(), column_families={"default": _options()})
    database.ingest_external_file(files)
    database.close()
    shutil.rmtree(parts)
