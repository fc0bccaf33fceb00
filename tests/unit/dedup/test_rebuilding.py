"""Look-ups while an empty store is filled: they answer what the store would, and seldom ask it."""

import random

import pytest

from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.rebuilding import FILTER_BITS, RebuildLookup
from rollup_engine.dedup.verdicts import KEY_BYTES


def keys(count: int, seed: int, bits: int = KEY_BYTES * 8) -> list[bytes]:
    """In order, as they are looked up; of few `bits` many are asked for again, and share places of the filter."""
    choice = random.Random(seed)
    shift = KEY_BYTES * 8 - bits
    return [(choice.getrandbits(bits) << shift).to_bytes(KEY_BYTES, "big") for _ in range(count)]


@pytest.mark.parametrize("bits", [9, FILTER_BITS + 2, KEY_BYTES * 8])
def test_it_answers_what_the_store_would(bits: int) -> None:
    store = MemoryIds()
    lookup = RebuildLookup(store.get)
    for batch in range(20):
        asked = sorted(keys(300, batch % 7, bits))
        assert lookup(asked) == store.get(asked)
        put = sorted(set(asked))[::2]
        store.write(put, [key + bytes([batch]) for key in put], batch + 1, "life")


def test_new_ids_are_not_looked_up() -> None:
    looked_up: list[bytes] = []

    def get(ids: list[bytes]) -> list[bytes | None]:
        looked_up.extend(ids)
        return [None] * len(ids)

    lookup = RebuildLookup(get)
    for batch in range(10):
        lookup(sorted(keys(10_000, batch)))
    assert len(looked_up) < 1_000
    assert lookup([]) == []
