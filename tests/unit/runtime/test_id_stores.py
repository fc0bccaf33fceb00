"""How a process parts with its id stores."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.store import WRITE_BUFFER_BYTES, RocksIds
from rollup_engine.errors import PartitionHalted
from rollup_engine.runtime import id_stores
from rollup_engine.runtime.id_stores import IdStores

KEY, VALUE = b"k" * 16, b"v" * 16


class Recording(MemoryIds):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def flush(self) -> None:
        self.seen.append("flushed")

    def close(self) -> None:
        self.seen.append("closed")


async def test_what_was_left_is_written_and_closed_at_the_end(tmp_path: Path) -> None:
    stores = IdStores(tmp_path, logged=False)
    store = stores.open(3)
    store.write([KEY], [VALUE], 7, "life")
    stores.leave(3, store)
    await stores.close()
    again = RocksIds(tmp_path / "3")
    assert (again.position, again.get([KEY])) == (7, [VALUE])
    assert list((tmp_path / "3").iterdir()) == [tmp_path / "3" / "0"], "not in another slot: the lock was given back"
    again.close()


def test_stores_that_fill_at_one_pace_are_not_written_to_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def sized(directory: Path, *, logged: bool, buffer_bytes: int) -> Recording:
        sizes.append(buffer_bytes)
        return Recording()

    monkeypatch.setattr(id_stores, "RocksIds", sized)
    stores = IdStores(tmp_path, logged=False)
    for partition in range(8):
        stores.open(partition)
    ordered = sorted(sizes)
    apart = [(above - below) / WRITE_BUFFER_BYTES for below, above in pairwise(ordered)]
    assert min(apart) > 0.03
    assert sum(sizes) / len(sizes) / WRITE_BUFFER_BYTES == pytest.approx(1, abs=0.05)


async def test_a_partition_that_comes_back_gets_the_store_that_was_left(tmp_path: Path) -> None:
    stores, left = IdStores(tmp_path, logged=False), Recording()
    stores.leave(3, left)
    assert stores.open(3) is left
    await stores.close()
    assert left.seen == [], "whoever has it open closes it"


async def test_what_was_left_of_a_partition_is_closed_as_soon_as_another_worker_may_want_it(tmp_path: Path) -> None:
    stores, left, others = IdStores(tmp_path, logged=False), Recording(), Recording()
    stores.leave(3, left)
    stores.leave(4, others)
    stores.let_go([2, 3])
    assert (left.seen, others.seen) == (["closed"], [])
    await stores.close()
    assert (left.seen, others.seen) == (["closed"], ["flushed", "closed"])


async def test_a_disk_in_trouble_does_not_hold_up_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Recording):
        async def flush(self) -> None:
            raise PartitionHalted("the disk is full", "make room")

    class ReadOnly(Recording):
        async def flush(self) -> None:
            raise OSError("Read-only file system")

        def close(self) -> None:
            super().close()
            raise OSError("Read-only file system")

    class Stuck(Recording):
        async def flush(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(id_stores, "FLUSH_SECONDS", 0.01)
    stores, left = IdStores(tmp_path, logged=False), [ReadOnly(), Full(), Stuck(), Recording()]
    for partition, store in enumerate(left):
        stores.leave(partition, store)
    async with asyncio.timeout(5):
        await stores.close()
    assert [store.seen for store in left] == [["closed"], ["closed"], ["closed"], ["flushed", "closed"]]
