"""Reading a bucket, against a naive account: any batch sizes, crashes, listings, changes and deletions.

What a reader hands out is committed, or lost with a crash, as in route; positions and the ledger are all that stays.
"""

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollup_engine.buckets import offsets, reader
from rollup_engine.buckets.store import Found
from rollup_engine.errors import BrokerUnavailable, PartitionHalted, StoreRefused, StoreUnavailable
from rollup_engine.ports import OBJECT_DAMAGED, Unreadable
from tests.contract.bucket_bed import BUCKET, PARTITIONS, Bed, batch, rest, without_pauses


@pytest.fixture(autouse=True, scope="module")
def _without_pauses() -> Iterator[None]:
    with without_pauses():
        yield


def lines(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line.strip()]


def content(rng: random.Random) -> bytes:
    rows = [b'{"n":%d}' % rng.randrange(10**6) for _ in range(rng.choice([0, 1, 2, 9, 40]))]
    for _ in range(rng.randrange(3)):
        rows.insert(rng.randint(0, len(rows)), b"")
    return b"\n".join(rows) + (b"\n" if rng.random() < 0.5 else b"")


async def schedule(seed: int) -> None:
    rng, bed = random.Random(seed), Bed()
    pages: list[tuple[int, list[Found]]] = []
    sessions = {partition: bed.reader(partition) for partition in PARTITIONS}
    touched: set[str] = set()  # changed or deleted, ever

    async def restart(partition: int) -> None:
        await sessions[partition].close()
        sessions[partition] = bed.reader(partition)

    for _ in range(rng.randint(10, 80)):
        name, partition = f"{rng.randrange(30):02}", rng.choice(PARTITIONS)
        match rng.randrange(10):
            case 0 | 1:
                touched |= {name} & {of for of, _ in bed.versions.values()}
                bed.put(name, content(rng))
            case 2:
                if rng.random() < 0.2 and bed.store.objects.pop(name, None):
                    touched.add(name)
            case 3:  # a lister looks; what it has seen reaches the ledger later, and perhaps behind another's
                bed.ledger.clock_ms += 1
                pages.append((bed.ledger.clock_ms, bed.store.listing()))
            case 4 | 5:
                if pages:
                    await bed.take_in(*pages.pop(rng.randrange(len(pages))))
            case 6:
                await restart(partition)
            case 7:  # as far as handed out, and then a crash
                await bed.read(sessions[partition], partition, rng.choice([1, 3, 50]), commits=False)
                await restart(partition)
            case _:
                await bed.read(sessions[partition], partition, rng.choice([1, 3, 50]))
    for partition in PARTITIONS:
        await sessions[partition].close()
    await bed.look()
    looking = asyncio.create_task(bed.look_on())
    for partition in PARTITIONS:
        await bed.read_all(partition)
    looking.cancel()
    bed.threads.shutdown()

    places = [record.offset for record in bed.taken]
    assert len(places) == len(set(places)), "a row was handed out twice"
    assert len({row.object.name for row in bed.ledger.rows}) == len(bed.ledger.rows)
    for row in bed.ledger.rows:
        of, rows = row.object, bed.rows()[row.object.name]
        assert of.outcome is not None
        named, read = bed.versions[of.etag]
        assert named == of.name
        assert rows == lines(read)[: len(rows)], "a part of another object's, or of another life of it"
        if of.outcome == "read":
            assert rows == lines(read)
            assert row.rows == len(rows)
        else:
            assert of.name in touched, f"{of} is fine"


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_rows_handed_out_are_those_of_the_naive_reading(seed: int) -> None:
    asyncio.run(schedule(seed))


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    yield made
    made.threads.shutdown()


async def test_small_objects_share_a_batch_and_large_ones_are_cut(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FILL_SECONDS", 0.4)
    for number in range(12):
        bed.put(f"{number:02}", b"1\n2\n3\n")
    await bed.look()
    assert len(await batch(bed)) == 9  # of objects 0, 4 and 8
    assert bed.positions[0] == offsets.after(8)
    assert len(await batch(bed, partition=1, records_max=2)) == 2
    assert bed.positions[1] == offsets.offset_of(1, 3)


async def test_reading_goes_on_in_the_middle_and_counts_all_rows(bed: Bed) -> None:
    bed.put("a", b"1\n\n2\n3\n")
    await bed.look()
    assert [record.value for record in await batch(bed, records_max=2)] == [b"1", b"2"]
    assert bed.ledger.rows[0].object.outcome is None
    assert bed.ledger.rows[0].object.begun
    (last,) = await rest(bed)
    assert (last.value, offsets.line_of(last.offset)) == (b"3", 4)
    assert (bed.ledger.rows[0].object.outcome, bed.ledger.rows[0].rows) == ("read", 3)


async def test_an_object_is_left_only_once_the_ledger_says_what_came_of_it(bed: Bed) -> None:
    bed.put("a", b"1\n")
    await bed.look()
    one = bed.reader(0)

    async def refuses(*args: object) -> None:
        raise RuntimeError("no ledger")

    bed.ledger.finish = refuses  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        await bed.read_on(one, 0)
    assert one.position < offsets.after(0)
    await one.close()


async def test_a_damaged_one_gives_its_good_rows_and_one_that_says_where(bed: Bed) -> None:
    bed.put("a.gz", b"no gzip at all")
    await bed.look()
    (bad,) = await rest(bed)
    assert isinstance(bad, Unreadable)
    assert (bad.reason, bad.offset) == (OBJECT_DAMAGED, 0)
    assert (bed.ledger.rows[0].object.outcome, bed.ledger.rows[0].rows) == ("damaged", 1)


async def test_a_fault_is_raised_once_what_came_before_it_is_taken(bed: Bed) -> None:
    bed.put("a", b"1\n")
    await bed.look()
    one = bed.reader(0)
    await bed.read_on(one, 0, offsets.after(0))
    for name in "bcde":
        bed.put(name, b"2\n")
    await bed.look()
    bed.store.fault = StoreUnavailable("the network is down")
    with pytest.raises(BrokerUnavailable):
        await bed.read_on(one, 0)
    assert one.position == offsets.after(0)
    await one.close()
    bed.store.fault = None
    assert [record.value for record in await rest(bed)] == [b"2"]
    bed.store.fault = StoreRefused("no permission", "Give it.")
    one = bed.reader(1)
    with pytest.raises(PartitionHalted, match="no permission"):
        await bed.read_on(one, 1)
    await one.close()


async def test_a_store_that_refuses_to_be_listed_halts_one_partition_once_all_is_read(bed: Bed) -> None:
    bed.put("a", b"1\n")
    await bed.look()
    await bed.ledger.refused(BUCKET.topic, "no permission", "Give it.")
    one, other = bed.reader(0), bed.reader(1)
    await bed.read_on(one, 0, offsets.after(0))
    with pytest.raises(PartitionHalted, match="no permission"):
        await bed.read_on(one, 0)
    assert not await bed.read(other, 1, 100)
    await bed.ledger.listed(BUCKET.topic, 1)
    again = bed.reader(0)
    assert not await bed.read(again, 0, 100)
    for made in (one, other, again):
        await made.close()


async def test_no_more_than_a_batch_is_read_ahead(bed: Bed) -> None:
    bed.put("a", b"".join(b"%d\n" % n for n in range(10_000)))
    await bed.look()
    one = bed.reader(0)
    while not await bed.read(one, 0, 10):
        pass
    assert one._ahead is not None
    await asyncio.wait((one._ahead,), timeout=10)
    assert len(one._ahead.result().records) <= 10
    await one.close()
