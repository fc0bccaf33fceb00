"""Rows in which the engine's own processes die, hang, or come and go."""

import random
import time

from rollup_engine.injection import POINTS
from tests.acceptance.cli import until
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_worker import READY_SECONDS

KILLS = 20
KILL_EVERY_SECONDS = 3.0
PASSES = (1, 3, 7)
STORM_ACTIONS = 20
STORM_SECONDS = 60.0
TAKEN_OVER = "another worker has taken the partition over"
EVERYTHING = {"dedup": PARTITIONS, "rollup": PARTITIONS}


@fault("SIGKILL of route / work at random, 20 times in one run", embedded=True)
def killed_at_random(bed: Bed) -> Outcome:
    rng = random.Random(1)
    bed.start("route", "route", "work", "work")
    load = bed.load(over=KILLS * KILL_EVERY_SECONDS)
    for number in range(KILLS):
        load.reaches(number / KILLS)
        victim = rng.choice(bed.running)
        time.sleep(rng.random())  # at any moment of its work: what is being tested is that none matters
        victim.kill()
        bed.restart(victim, wait=False)
    bed.recovering()
    return bed.check()


def killed_at(bed: Bed, point: str) -> Outcome:
    """Three processes of the role die at the point, each at another pass of its own; then all are started again."""
    role, other = ("route", "work") if point.startswith("route") else ("work", "route")
    bed.start(other)
    doomed = [bed.start(role, wait=False, inject=f"kill:{point}:{number}")[0] for number in PASSES]
    for worker in doomed:
        worker.ready()
    bed.load(over=15)
    for worker in doomed:
        worker.dies()
    for worker in doomed:
        bed.restart(worker, wait=False)
    bed.recovering()
    return bed.check()


for _point in POINTS:
    if _point.split(".")[0] in ("route", "dedup", "rollup", "sink"):
        fault(
            f"SIGKILL at {_point}, its passes {', '.join(map(str, PASSES))}",
            ci=_point == "dedup.sent",
            embedded=True,
        )(lambda bed, point=_point: killed_at(bed, point))


@fault("SIGSTOP past the session timeout, another takes over, SIGCONT")
def zombies(bed: Bed) -> Outcome:
    """A route and a work process hang between what they sent and their advance. That one finds the claim lost."""
    frozen = [*bed.start("route", inject="stop:route.sent:5"), *bed.start("work", inject="stop:dedup.sent:5")]
    bed.load(over=15)
    for worker in frozen:
        until("it hangs", lambda w=worker: w.frozen)
    before = bed.booked
    heirs = bed.start("route", "work")  # they have joined once Kafka has given the others up
    until("the heirs have everything", lambda: heirs[0].open.get("route", 0) >= PARTITIONS, READY_SECONDS)
    until("the heirs have everything", lambda: heirs[1].open == EVERYTHING, READY_SECONDS)
    until("the heirs go on", lambda: bed.booked > before, READY_SECONDS)
    claims = _claims(bed)
    for worker in frozen:
        worker.thaw()
    bed.recovering()
    for worker, stages in zip(frozen, (("route",), ("dedup", "rollup")), strict=True):
        until("the zombie rejoins", lambda w=worker, s=stages: all(w.open.get(stage, 0) > 0 for stage in s))
    until("the heirs share with it", lambda: heirs[1].open != EVERYTHING)
    outcome = bed.check()
    assert any(TAKEN_OVER in worker.output for worker in frozen), "no zombie noticed by its claim"
    back = [key for key, epoch in _claims(bed).items() if epoch < claims.get(key, 0)]
    assert not back, f"claims went back: {back}"
    return outcome


def _claims(bed: Bed) -> dict[tuple[str, str], int]:
    found = bed.query("SELECT stage, source, epoch FROM rollup_engine.progress")
    return {(row["stage"], row["source"]): row["epoch"] for row in found}


@fault("rebalance storm: 20 joins and leaves in a minute")
def storm(bed: Bed) -> Outcome:
    rng = random.Random(2)
    bed.start("route", "work")
    stay = list(bed.workers)
    load = bed.load(over=STORM_SECONDS)
    for number in range(STORM_ACTIONS):
        load.reaches(number / STORM_ACTIONS)
        guests = [worker for worker in bed.running if worker not in stay]
        if number % 2 and guests:
            guests[0].process.popen.terminate()
        else:
            bed.start(rng.choice(("route", "work", "work")), wait=False)
    bed.recovering()
    return bed.check()


@fault("a partition goes A → B → A while A kept its state directory")
def there_and_back(bed: Bed) -> Outcome:
    """Ids that only B saw are repeated to A, whose store ends before them."""
    events = bed.traffic()
    third = len(events) // 3
    shared = {stage: count // 2 for stage, count in EVERYTHING.items()}
    _, a = bed.start("route", "work")
    bed.load(events=events[:third])
    bed.until_booked(third)
    (b,) = bed.start("work")
    until("the two share", lambda: a.open == b.open == shared)
    a.stop()
    until("B has everything", lambda: b.open == EVERYTHING)
    bed.load(events=events[third : 2 * third])
    bed.until_booked(2 * third)
    a = bed.restart(a)
    b.stop()
    until("A has everything again", lambda: a.open == EVERYTHING)
    bed.recovering()
    rng = random.Random(3)
    bed.load(events=events[2 * third :] + rng.sample(events[: 2 * third], third // 3))
    return bed.check()
