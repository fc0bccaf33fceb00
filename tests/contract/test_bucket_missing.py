"""Objects that are not as they were listed: none is given up before a complete listing that began later has ended."""

import asyncio
from collections.abc import Iterator

import pytest

from rollup_engine.buckets import offsets, reader
from rollup_engine.errors import PartitionHalted
from tests.contract.bucket_bed import BUCKET, Bed, batch, rest, without_pauses


@pytest.fixture(autouse=True, scope="module")
def _without_pauses() -> Iterator[None]:
    with without_pauses():
        yield


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    yield made
    made.threads.shutdown()


async def test_one_that_changed_before_it_was_begun_is_read_as_it_is(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "NEWER_SECONDS", 0.01)
    bed.put("a", b"old\n")
    await bed.look()
    bed.put("a", b"new\n")
    reading = asyncio.create_task(rest(bed))
    await asyncio.sleep(0.15)  # however long nobody lists it
    assert not reading.done()
    await bed.look()
    assert [record.value for record in await reading] == [b"new"]
    assert bed.ledger.rows[0].object.outcome == "read"


async def test_one_that_changed_once_it_was_begun_is_left_where_it_is(bed: Bed) -> None:
    bed.put("a", b"1\n2\n")
    bed.put("b", b"1\n")
    for name in "cde":
        bed.put(name, b"5\n")
    await bed.look()
    assert len(await batch(bed, records_max=1)) == 1
    bed.put("a", b"1\n3\n")
    await bed.look()
    assert [record.value for record in await rest(bed)] == [b"5"]  # the next of the partition
    assert (bed.ledger.rows[0].object.outcome, bed.ledger.rows[0].rows) == ("changed", 1)


async def test_one_that_is_gone_is_left_with_an_alarm(bed: Bed) -> None:
    bed.put("a", b"1\n")
    await bed.look()
    del bed.store.objects["a"]
    looking = asyncio.create_task(bed.look_on())
    assert await rest(bed) == []
    looking.cancel()
    assert (bed.positions[0], bed.ledger.rows[0].object.outcome) == (offsets.after(0), "gone")


async def test_one_that_comes_back_after_it_was_given_up_and_a_crash_holds_nothing_up(bed: Bed) -> None:
    for name in "abcde":
        bed.put(name, b"1\n")
    await bed.look()
    del bed.store.objects["a"]
    looking = asyncio.create_task(bed.look_on())
    one = bed.reader(0)
    while bed.ledger.rows[0].object.outcome is None:
        await bed.read(one, 0, 100, commits=False)
    await one.close()
    bed.put("a", b"2\n")
    assert [record.value for record in await asyncio.wait_for(rest(bed), 5)] == [b"1"]  # the next of the partition
    looking.cancel()
    assert (bed.positions[0], bed.ledger.rows[0].object.outcome) == (offsets.after(4), "changed")


@pytest.mark.parametrize("rows_before", [0, 1])
async def test_nothing_is_gone_before_a_listing_that_began_later_has_ended(bed: Bed, rows_before: int) -> None:
    """A store that was away for a moment costs nothing, in the middle of an object as before it."""
    for number in range(8):
        bed.put(f"{number}", b"1\n" + b" " * 100 + b"\n2\n")  # more than what is held of it
    await bed.look()
    if rows_before:
        assert len(await batch(bed, records_max=1)) == 1
    away, bed.store.objects = bed.store.objects, {}
    reading = asyncio.create_task(rest(bed))
    await asyncio.sleep(0.03)
    await bed.ledger.listed(BUCKET.topic, bed.ledger.clock_ms)  # one that began before
    await asyncio.sleep(0.03)
    assert {row.object.outcome for row in bed.ledger.rows} == {None}
    bed.store.objects = away
    await bed.look()
    assert [record.value for record in await reading] == [b"1", b"2", b"1", b"2"][rows_before:]


async def test_one_listing_confirms_all_that_were_deleted_together(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms, noted = bed.ledger.now_ms, asyncio.Event()

    async def noting() -> int:
        noted.set()
        return await now_ms()

    monkeypatch.setattr(bed.ledger, "now_ms", noting)
    for number in range(40):
        bed.put(f"{number:02}", b"1\n")
    await bed.look()
    for number in range(39):
        del bed.store.objects[f"{number:02}"]
    reading = asyncio.create_task(rest(bed))
    await noted.wait()
    await bed.look()
    assert await asyncio.wait_for(reading, 5) == []
    assert [row.object.outcome for row in bed.ledger.rows[::4]] == ["gone"] * 10


async def test_who_waits_for_a_listing_halts_where_there_is_none(bed: Bed) -> None:
    for name in "ab":
        bed.put(name, b"1\n")
    await bed.look()
    bed.store.objects = {}
    await bed.ledger.refused(BUCKET.topic, "no permission", "Give it.")
    with pytest.raises(PartitionHalted, match="no permission"):
        await rest(bed, partition=1)
    assert bed.ledger.rows[1].object.outcome is None


async def test_what_changes_all_the_time_halts_and_is_not_given_up(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SETTLE_SECONDS", 0.02)
    bed.put("a", b"1\n")
    await bed.look()
    bed.put("a", b"1\n2\n")  # a complete listing leaves it out: it may still be written
    bed.ledger.clock_ms += 1_000
    reading = asyncio.create_task(rest(bed))
    await asyncio.sleep(0.06)
    assert not reading.done()
    await bed.ledger.listed(BUCKET.topic, bed.ledger.clock_ms)
    with pytest.raises(PartitionHalted, match="changes again and again"):
        await reading
    await bed.look()
    assert [record.value for record in await rest(bed)] == [b"1", b"2"]
