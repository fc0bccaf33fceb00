"""The RocksDB store does what a dictionary does, is never ahead of what it was told, and is disposable."""

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollup_engine.dedup import store as store_module
from rollup_engine.dedup.memory import MemoryIds
from rollup_engine.dedup.store import META, WRITE_BUFFERS_MAX, RocksIds
from rollup_engine.dedup.verdicts import encode
from rollup_engine.errors import PartitionHalted, RollupError


def key(number: int) -> bytes:
    """Some are before what the store writes of itself, and some behind it."""
    return (number % 16 << 124 | number).to_bytes(16, "big")


def puts(ids: dict[bytes, bytes]) -> tuple[list[bytes], list[bytes]]:
    return list(ids), list(ids.values())


operations = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["write", "write a file"]),
            st.dictionaries(st.integers(0, 30), st.integers(0, 1000), max_size=8),
        ),
        st.tuples(st.just("expire"), st.integers(0, 1000)),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=12,
)


@given(steps=operations)
def test_it_is_a_dictionary(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]) -> None:
    directory = tmp_path_factory.mktemp("ids")
    rocks, memory = RocksIds(directory), MemoryIds()
    bound = 0
    try:
        for number, (what, argument) in enumerate(steps, 1):
            if what.startswith("write"):
                ids = {key(i): encode(((7, at),)) for i, at in argument.items()}  # type: ignore[attr-defined]
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(store_module, "_FILE_IDS_MIN", 1 if what == "write a file" else 1000)
                    rocks.write(*puts(ids), number, "life")
                memory.write(*puts(ids), number, "life")
            elif what == "expire":
                bound = max(bound, int(str(argument)))
                rocks.expire(bound, 1000)
                memory.expire(bound, 1000)
            elif what == "reopen":
                rocks.close()
                rocks = RocksIds(directory)
            else:
                rocks.clear()
                memory.clear()
            wanted = [key(i) for i in range(31)]
            # an id that is due may stay for a while: deletion is housekeeping, and no verdict depends on it
            alive = [v if v is not None and int.from_bytes(v[-8:], "big") >= bound else None for v in rocks.get(wanted)]
            expected = [v if v and int.from_bytes(v[-8:], "big") >= bound else None for v in memory.get(wanted)]
            assert alive == expected
            assert (rocks.position, rocks.incarnation) == (memory.position, memory.incarnation)
    finally:
        rocks.close()
        shutil.rmtree(directory)


def test_a_round_deletes_what_is_due_a_few_steps_at_a_time(tmp_path: Path) -> None:
    store = RocksIds(tmp_path)
    store.write(*puts({key(i): encode(((1, 1000 + i),)) for i in range(100)}), 1, "life")
    gone = sum(store.expire(1050, 7) for _ in range(20))
    assert gone == 50
    assert sum(value is not None for value in store.get([key(i) for i in range(100)])) == 50
    assert store.position == 1
    store.close()


def test_two_processes_on_one_disk_take_different_slots(tmp_path: Path) -> None:
    first = RocksIds(tmp_path)
    first.write(*puts({key(1): encode(((1, 1),))}), 5, "life")
    second = RocksIds(tmp_path)
    assert second.position == 0
    assert second.get([key(1)]) == [None]
    first.close()
    second.close()
    third = RocksIds(tmp_path)
    assert third.position == 5
    third.close()


def test_a_copy_of_the_disk_is_an_earlier_but_whole_state(tmp_path: Path) -> None:
    store = RocksIds(tmp_path / "a")
    store.write(*puts({key(1): encode(((1, 1),))}), 5, "life")
    store.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    store = RocksIds(tmp_path / "a")
    store.write(*puts({key(2): encode(((1, 2),))}), 9, "life")
    store.close()
    older = RocksIds(tmp_path / "b")
    assert older.position == 5
    assert older.get([key(1), key(2)]) == [encode(((1, 1),)), None]
    older.close()


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        every = max(1, len(content) // (20 if how == "flipped all over" else 1))
        for at in range(len(content) // 3 % every, len(content), every):
            content[at] ^= 0xFF
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped all over", "flipped once", "cut", "missing"])
@pytest.mark.parametrize("pattern", ["MANIFEST-*", "CURRENT", "*.sst", "*.log", "OPTIONS-*", "rocksdict-config.json"])
def test_a_damaged_disk_gives_right_answers_or_starts_empty(tmp_path: Path, pattern: str, how: str) -> None:
    store = RocksIds(tmp_path)
    keys, right = [key(i) for i in range(1000)], [encode(((i, i),)) for i in range(1000)]
    store.write(*puts(dict(zip(keys, right, strict=True))), 5, "life")
    store.close()
    for path in (tmp_path / "0").glob(pattern):
        damaged(path, how)
    store = RocksIds(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0"], "a damaged slot is mended, not passed over"
    try:
        found = store.get(keys)
    except PartitionHalted:
        found = store.get(keys)  # as the next session will find it
        assert store.position == 0
    assert found == (right if store.position == 5 else [None] * 1000)
    store.write(*puts({key(1): right[2]}), 9, "life")
    store.close()
    store = RocksIds(tmp_path)
    assert (store.position, store.get([key(1)])) == (9, [right[2]])
    store.close()


def test_what_another_format_wrote_is_discarded(tmp_path: Path) -> None:
    for stored in (msgspec.msgpack.encode([99, 7, "life"]), msgspec.msgpack.encode("something else")):
        store = RocksIds(tmp_path)
        store.write(*puts({key(1): encode(((1, 1),)), META: stored}), 5, "life")
        store._db.put(META, stored)
        store.close()
        store = RocksIds(tmp_path)
        assert (store.position, store.incarnation, store.get([key(1)])) == (0, "", [None])
        store.close()


def test_a_store_whose_own_position_is_corrupt_starts_empty_at_once(tmp_path: Path) -> None:
    store = RocksIds(tmp_path)
    store.write(*puts({key(i): encode(((i, i),)) for i in range(5_000)}), 5, "life")
    store.close()
    (table,) = (tmp_path / "0").glob("*.sst")
    content = bytearray(table.read_bytes())
    at = content.rindex(META)  # within the last of the data blocks
    content[at] ^= 1
    table.write_bytes(content)
    mended = RocksIds(tmp_path)
    assert (mended.position, mended.get([key(1)])) == (0, [None])
    mended.write(*puts({key(1): encode(((1, 1),))}), 6, "life")
    mended.close()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


FULL = "No space left on device: While appending to file"


def full(*_: object, **__: object) -> None:
    raise Exception(f"IO error: {FULL}")  # noqa: TRY002 - as rocksdict does


def broken(*_: object, **__: object) -> None:
    raise Exception("IO error: Input/output error")  # noqa: TRY002 - as rocksdict does


def test_a_disk_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "Rdict", broken)
    with pytest.raises(RollupError, match=r"Input/output error.*Check the disk"):
        RocksIds(tmp_path)


def test_a_full_disk_halts_at_the_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "Rdict", full)
    with pytest.raises(PartitionHalted, match=f"{tmp_path}.*{FULL}.*Make room on the disk"):
        RocksIds(tmp_path)


def test_a_disk_that_fills_up_halts_at_a_write_and_what_was_there_stays(tmp_path: Path) -> None:
    store = RocksIds(tmp_path)
    store.write(*puts({key(1): encode(((1, 1),))}), 5, "life")
    database = store._db
    store._db = SimpleNamespace(write=full, close=full)  # type: ignore[assignment]
    with pytest.raises(PartitionHalted, match=f"{FULL}.*Make room on the disk"):
        store.write(*puts({key(2): encode(((2, 2),))}), 6, "life")
    store.close()  # what is in memory has no room either: it is behind, as after a crash
    store._db = SimpleNamespace(close=broken)  # type: ignore[assignment]
    with pytest.raises(Exception, match="Input/output error"):
        store.close()
    database.close()
    assert RocksIds(tmp_path).position == 5


def test_the_path_of_a_store_does_not_decide_what_a_fault_means(tmp_path: Path) -> None:
    directory = tmp_path / "Corruption" / "lock of blocks"
    store = RocksIds(directory)
    store.write(*puts({key(1): encode(((1, 1),))}), 5, "life")
    other = RocksIds(directory)
    assert (other.position, sorted(path.name for path in directory.iterdir())) == (0, ["0", "1"])
    other.close()
    store.close()


def test_one_step_at_a_time_gets_round(tmp_path: Path) -> None:
    store = RocksIds(tmp_path)
    store.write(*puts({key(i): encode(((1, i),)) for i in range(10)}), 1, "life")
    assert sum(store.expire(5, 1) for _ in range(12)) == 5
    store.close()


def test_the_position_key_is_no_id() -> None:
    assert len(META) != 16


def test_a_rebuilds_ids_are_on_disk_at_once_with_what_came_before_them(tmp_path: Path) -> None:
    """Killed right after: the file and the position in it are there, and what came later and was not logged is not."""
    code = f"""
import os, signal
from pathlib import Path
from rollup_engine.dedup import store as module
store = module.RocksIds(Path({str(tmp_path)!r}))
ids = [number.to_bytes(16, "big") for number in range(module._FILE_IDS_MIN + 2)]
value = b"v" * 16
store.write(ids[-1:], [value], 1, "life")
store.write(ids[1:-1][::-1], [value] * (len(ids) - 2), 2, "life")
store.write(ids[:1], [value], 3, "life")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -signal.SIGKILL
    store = RocksIds(tmp_path)
    asked = [
        number.to_bytes(16, "big") for number in (0, 1, store_module._FILE_IDS_MIN, store_module._FILE_IDS_MIN + 1)
    ]
    assert (store.position, store.get(asked)) == (2, [None, b"v" * 16, b"v" * 16, b"v" * 16])
    assert not list((tmp_path / "0").glob("ids.new"))
    store.close()


def test_a_disk_that_fills_up_under_a_rebuild_halts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_FILE_IDS_MIN", 1)
    store = RocksIds(tmp_path)
    store.write(*puts({key(1): encode(((1, 1),))}), 5, "life")
    database = store._db
    store._db = SimpleNamespace(ingest_external_file=full)  # type: ignore[assignment]
    with pytest.raises(PartitionHalted, match=f"{FULL}.*Make room on the disk"):
        store.write(*puts({key(2): encode(((2, 2),))}), 6, "life")
    assert not list((tmp_path / "0").glob("ids.new"))
    store._db = database
    assert (store.position, store.get([key(1), key(2)])) == (5, [encode(((1, 1),)), None])
    store.close()


def test_a_file_that_was_being_moved_when_the_process_died_is_not_written_into(tmp_path: Path) -> None:
    """RocksDB links it into the database before it removes the first name."""
    ids = [key(number) for number in range(store_module._FILE_IDS_MIN)]
    store = RocksIds(tmp_path)
    store.write(ids, [b"v" * 16] * len(ids), 5, "life")
    (table,) = (tmp_path / "0").glob("*.sst")
    (tmp_path / "0" / "ids.new").hardlink_to(table)
    store.close()
    store = RocksIds(tmp_path)
    assert not list((tmp_path / "0").glob("ids.new"))
    more = [key(number) for number in range(len(ids), 2 * len(ids))]
    (tmp_path / "0" / "ids.new").hardlink_to(table)
    store.write(more, [b"w" * 16] * len(more), 6, "life")
    store.close()
    store = RocksIds(tmp_path)
    assert (store.position, store.get(ids) + store.get(more)) == (6, [b"v" * 16] * len(ids) + [b"w" * 16] * len(more))
    store.close()


async def test_a_flush_waits_for_memory_and_for_files_that_are_too_many_while_others_work(tmp_path: Path) -> None:
    store = RocksIds(tmp_path)
    database = store._db
    memory, files, calls = [1, 1, 0], ["13", "13", "12", "12", "12"], []

    def flush(*, wait: bool = True) -> None:
        calls.append(wait)

    def number(name: str) -> int:
        return memory.pop(0) if name == "rocksdb.num-immutable-mem-table" else 0

    def text(_: str) -> str:
        return files.pop(0)

    store._db = SimpleNamespace(flush=flush, property_int_value=number, property_value=text)  # type: ignore[assignment]
    flushing, turns = asyncio.create_task(store.flush()), 0
    while not flushing.done():
        turns += 1
        await asyncio.sleep(0)
    await flushing
    assert calls == [False, True]
    assert not files
    assert turns > 4
    store._db = database
    store.close()


async def test_what_was_flushed_is_there_after_a_crash(tmp_path: Path) -> None:
    stores = [RocksIds(tmp_path / str(number)) for number in range(2)]
    for store in stores:
        ids = [key(number) for number in range(50_000)]
        store.write(ids, [b"v" * 16] * len(ids), 5, "life")
    await asyncio.gather(*(store.flush() for store in stores))
    for number, store in enumerate(stores):
        shutil.copytree(tmp_path / str(number), tmp_path / f"{number}-as-after-a-crash")
        store.close()
        again = RocksIds(tmp_path / f"{number}-as-after-a-crash")
        assert (again.position, again.get([key(0)])) == (5, [b"v" * 16])
        again.close()


async def test_a_flush_that_fails_does_not_wait_for_ever(tmp_path: Path) -> None:
    store = RocksIds(tmp_path)
    numbers = {"rocksdb.num-immutable-mem-table": 1, "rocksdb.background-errors": 1}
    database = store._db
    calls: list[bool] = []

    def flush(*, wait: bool = True) -> None:
        calls.append(wait)
        if wait:
            full()

    store._db = SimpleNamespace(  # type: ignore[assignment]
        flush=flush, property_int_value=numbers.get, property_value=lambda _: "0"
    )
    with pytest.raises(PartitionHalted, match="Make room on the disk"):
        await asyncio.wait_for(store.flush(), 5)
    assert calls == [False, True]
    store._db = database
    store.close()


@pytest.mark.parametrize(("logged", "position"), [(True, 2), (False, 0)])
def test_a_killed_process_leaves_what_it_wrote_only_where_that_is_logged(
    tmp_path: Path, logged: bool, position: int
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from rollup_engine.dedup.store import RocksIds
store = RocksIds(Path({str(tmp_path)!r}), logged={logged})
store.write([b"k" * 16], [b"v" * 16], 2, "life")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -signal.SIGKILL
    store = RocksIds(tmp_path)
    assert (store.position, store.get([b"k" * 16])) == (position, [b"v" * 16 if logged else None])
    store.close()


def test_a_store_opened_again_keeps_its_filters(tmp_path: Path) -> None:
    """Without the options given once more for the column family, RocksDB reads a block per id that it does not hold."""
    for _ in range(2):
        RocksIds(tmp_path).close()
        options = max((tmp_path / "0").glob("OPTIONS-*")).read_text()
        assert "filter_policy=bloomfilter" in options
        assert "  cache_index_and_filter_blocks=false" in options


def test_several_tables_in_memory_go_to_disk_as_one_file(tmp_path: Path) -> None:
    """One by one they would be so many more files to look through and to merge."""
    table_bytes = 1 << 18
    rocks, ids = RocksIds(tmp_path, buffer_bytes=table_bytes), {}
    while not files_of(rocks):
        more = {key(len(ids) + i): encode(((7, i),)) for i in range(500)}
        rocks.write(*puts(more), 1, "life")
        ids |= more
        assert int(rocks._db.property_value("rocksdb.cur-size-all-mem-tables")) < 1.1 * WRITE_BUFFERS_MAX * table_bytes
    assert files_of(rocks) == 1
    stored = (tmp_path / "0").glob("*.sst")
    assert sum(file.stat().st_size for file in stored) > 2 * table_bytes, "more than one table held"
    assert rocks.get(list(ids)) == list(ids.values())
    rocks.close()


def files_of(rocks: RocksIds) -> int:
    return int(rocks._db.property_value("rocksdb.num-files-at-level0"))
