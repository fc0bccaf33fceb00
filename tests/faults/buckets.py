"""Rows in which events come out of objects: each row of an object once, whoever dies in the middle of it."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

from rollup_engine.buckets.offsets import offset_of
from rollup_engine.config.model import Bucket
from tests.acceptance.cli import until
from tests.acceptance.traffic import yaml
from tests.faults import harness_recount as recounts
from tests.faults.events import without_conflicts
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_recount import Raw, Recount
from tests.faults.harness_worker import READY_SECONDS

OBJECTS = 4
ROWS = 44_000  # of an object: route takes no more than 40,000 at once
TOPIC_EVENTS = 5_000


def filled(bed: Bed) -> Recount:
    """A directory of objects, named as a source beside the topic; what its rows come to."""
    directory = bed.directory / "objects"
    directory.mkdir()
    bucket = Bucket(url=f"file://{directory}/", format="ndjson", poll_ms=1_000)
    names = f'source: {{topic: downloads, bucket: "{bucket.url}", format: ndjson, poll: 1s}}'
    text = yaml(emit_every="1s", grace_period="12h").replace("source: {topic: downloads}", names)
    assert names in text
    bed.configure(text)
    found: dict[int, list[Raw]] = {number: [] for number in range(PARTITIONS)}
    # Which copy comes first hangs on races between objects, as between partitions.
    values = [value or b"nothing" for _, value in without_conflicts(bed.traffic(OBJECTS * ROWS * 11 // 10, seed=7))]
    for number in range(OBJECTS):
        rows: Sequence[bytes] = values[number * ROWS : (number + 1) * ROWS]
        (directory / f"{number:03}.ndjson").write_bytes(b"\n".join(rows))
        found[number % PARTITIONS] += [Raw(offset_of(number, line), row) for line, row in enumerate(rows, 1)]
    return recounts.recount(bucket.topic, found, bed.grace_ms)


def with_topic(bed: Bed, objects: Recount) -> Recount:
    """And what the topic comes to, once all is sent: no id is on both."""
    for load in bed.loads:
        load.done()
    topic = bed.recount()
    totals = dict(topic.totals)
    for group, (count, size) in objects.totals.items():
        before = totals.get(group, (0, Decimal(0)))
        totals[group] = before[0] + count, before[1] + size
    books: Counter[str] = topic.books + objects.books
    return Recount(topic.records + objects.records, books, totals, topic.letters | objects.letters)


def in_the_middle(bed: Bed) -> int:
    """How many objects route is inside of."""
    query = "SELECT next_offset FROM rollup_engine.progress WHERE stage = 'route' AND source LIKE 'bucket.%'"
    return sum(row["next_offset"] % (1 << 36) > 0 for row in bed.query(query))


def every_object_read(bed: Bed) -> None:
    found = bed.query("SELECT outcome, rows FROM rollup_engine.objects ORDER BY number")
    assert [(row["outcome"], row["rows"]) for row in found] == [("read", ROWS)] * OBJECTS


@fault("SIGKILL of both route processes in the middle of objects, beside a topic", ci=True)
def killed_in_the_middle(bed: Bed) -> Outcome:
    """One with a batch sent and not advanced, the other just after its advance."""
    objects = filled(bed)
    doomed = [
        *bed.start("route", wait=False, inject="kill:route.sent:2"),
        *bed.start("route", wait=False, inject="kill:route.advanced:1"),
    ]
    bed.start("work")
    for worker in doomed:
        worker.dies()
    assert in_the_middle(bed)
    bed.load(count=TOPIC_EVENTS)
    for worker in doomed:
        bed.restart(worker, wait=False)
    bed.recovering()
    outcome = bed.check(with_topic(bed, objects))
    every_object_read(bed)
    return outcome


@fault("SIGSTOP of a route process in the middle of an object, another takes over, SIGCONT")
def zombie_in_the_middle(bed: Bed) -> Outcome:
    """It hangs between what it sent and its advance, and holds the listing too."""
    objects = filled(bed)
    (frozen,) = bed.start("route", inject="stop:route.sent:3")
    bed.start("work")
    until("it hangs", lambda: frozen.frozen, READY_SECONDS)
    (heir,) = bed.start("route")
    bed.load(count=TOPIC_EVENTS)
    expected = with_topic(bed, objects)
    bed.until_booked(expected.records)
    frozen.thaw()
    bed.recovering()
    until("the zombie rejoins", lambda: frozen.open.get("route", 0) > 0 and heir.running, READY_SECONDS)
    outcome = bed.check(expected)
    every_object_read(bed)
    return outcome
