"""Rows in which what an event holds is odd: ids that come again, numbers and grouping texts at their limits."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from tests.acceptance.cli import until
from tests.faults import harness_recount as recounts
from tests.faults.events import AT, event, expected, mixed, reasons, spread
from tests.faults.harness import PARTITIONS, Bed, Outcome, fault
from tests.faults.harness_load import Sendable
from tests.faults.harness_recount import Difference

# ids


def book_over_a_kill(bed: Bed, events: Sequence[Sendable], over: float) -> None:
    """All of them in the books, with work killed in the middle of the load."""
    bed.start("route", "work")
    load = bed.load(events=events, over=over)
    load.reaches(0.5)
    work = bed.running[-1]
    work.kill()
    bed.restart(work, wait=False)
    bed.recovering()
    load.done()
    bed.until_booked(len(events))


@fault("ids: one id on two raw partitions, with another payload, with another customer", embedded=True)
def ids_again(bed: Bed) -> Outcome:
    """Which copy is first is a race where they lie on several partitions: the dead letters tell which one counts."""
    count = max(20, bed.events // 4)
    copies: list[Sendable] = []
    for n in range(count):
        to, other = n % PARTITIONS, (n + 1 + n // PARTITIONS % 3) % PARTITIONS
        first = event(f"id-{n}", customer=f"customer-{n % 40}", size=n)
        second = (
            first,
            event(f"id-{n}", customer=f"customer-{n % 40}", size=n + 1),
            event(f"id-{n}", customer=f"customer-{n % 40 + 1}", size=n),
            event(f"id-{n}", customer=f"customer-{n % 40}", size=n, download_speed="fast"),
        )[n % 4]
        copies += [(to, first), (other, second)]
        if n % 3 == 0:
            copies.append((to, second))
    book_over_a_kill(bed, copies, over=6)
    partitions = asyncio.run(recounts.read_topic(bed.kafka.servers, bed.topic))
    conflicts = set(asyncio.run(recounts.letters_of(bed.database_url, bed.app_id)))
    assert set(reasons(bed)) == {"conflict"}
    kept: dict[str, set[bytes]] = {}
    told: dict[str, set[bytes]] = {}
    for number, records in partitions.items():
        for one in records:
            refused = (f"{bed.topic}/{number}", one.offset) in conflicts
            (told if refused else kept).setdefault(json.loads(one.value)["id"], set()).add(one.value)
    several = {name: values for name, values in kept.items() if len(values) > 1}
    assert not several, f"{len(several)} ids counted with two payloads: {next(iter(several.items()))}"
    assert len(kept) == count, f"{count - len(kept)} ids were refused altogether"
    wrong = [name for name, values in told.items() if values & kept[name]]
    assert not wrong, f"{len(wrong)} conflicts told of the payload that counts, such as {wrong[0]}"
    winners = {0: [recounts.Raw(n, next(iter(values))) for n, values in enumerate(kept.values())]}
    wanted = recounts.recount(bed.topic, winners, bed.grace_ms)
    wanted.records, wanted.letters = len(copies), conflicts
    wanted.books.update(conflicting=len(conflicts), duplicate=len(copies) - count - len(conflicts))
    return bed.check(wanted)


# numbers

NUMBERS_YAML = """\
event: file_download
source: {topic: downloads}
fields: {id: id, timestamp: download_timestamp, external_customer_id: customer}
rollups:
  - aggregates: [{sum: amount}, {min: amount}, {max: amount}]
    emit_every: 1s
grace_period: unlimited
"""
EXACT = (
    "9007199254740993",  # 2^53 + 1
    "9223372036854775807",
    "9223372036854775808",  # 2^63
    "18446744073709551616",
    "-9223372036854775809",
    "1" + "0" * 30,
    "-1" + "0" * 30,
    "9" * 36,
    "-0",
    "-0.0",
    "0.000000001",
    "1e30",
    "1.5E-3",
    "123456789012345678901234567890.123456789",
    "0e999999999999",
)
REFUSED = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1e-400",
    "0.0000000001",
    "9" * 37,
    "1e999999999999",
    "01",
)
TENTH = "0.1"
NEGATIVES = ("-1", "-9007199254740993", "-0.000000001", "-1e20")


def amount(name: str, customer: str, number: str) -> bytes:
    return f'{{"id":"{name}","customer":"{customer}","download_timestamp":"{AT}","amount":{number}}}'.encode()


@fault("numbers: 2^53+1, 2^63, 10^30, 0.1 over and over, -0, NaN, Infinity, 1e400, all-negative", ci=True)
def numbers(bed: Bed) -> Outcome:
    """Sums, least and greatest per customer, by Python's fractions; work is killed in the middle."""
    bed.configure(NUMBERS_YAML)
    tenths = max(1_000, bed.events)
    rounds = max(1, bed.events // 2_000)
    sent = [("tenths", TENTH)] * tenths
    sent += [(f"alone-{n}", number) for n, number in enumerate(EXACT)]
    sent += [("all", number) for number in EXACT] * rounds
    sent += [("negative", number) for number in NEGATIVES] * rounds
    sent += [("refused", number) for number in REFUSED] * rounds
    events = spread(amount(f"number-{n}", *one) for n, one in enumerate(sent))
    book_over_a_kill(bed, events, over=5)
    by_customer: dict[str, list[Fraction]] = {}
    for customer, number in sent:
        if customer != "refused":
            by_customer.setdefault(customer, []).append(
                Fraction(Decimal(number)) if "e9" not in number else Fraction(0)
            )
    wanted = {
        customer: (len(ones), sum(ones, Fraction(0)), min(ones), max(ones)) for customer, ones in by_customer.items()
    }
    return _numbers_agree(bed, wanted, refused=len(REFUSED) * rounds, sent=len(sent))


def _numbers_agree(
    bed: Bed, wanted: Mapping[str, tuple[int, Fraction, Fraction, Fraction]], refused: int, sent: int
) -> Outcome:
    def found() -> dict[str, tuple[int, Fraction, Fraction, Fraction]]:
        rows = bed.query('SELECT * FROM rollups."file_download"')
        names = ("sum_amount", "min_amount", "max_amount")
        return {row["external_customer_id"]: (row["count"], *(Fraction(row[name]) for name in names)) for row in rows}

    counted = sum(one[0] for one in wanted.values())
    until("all of it in the view", lambda: sum(one[0] for one in found().values()) >= counted)
    took = max(0.0, time.monotonic() - (bed.loads[-1].ended or 0))
    bed.stop()
    there = found()
    wrong = {key: (there.get(key), wanted.get(key)) for key in there.keys() | wanted.keys()}
    wrong = {key: pair for key, pair in wrong.items() if pair[0] != pair[1]}
    assert not wrong, f"{len(wrong)} customers differ, such as {next(iter(wrong.items()))}"
    books = asyncio.run(recounts.books_of(bed.database_url, bed.app_id))
    assert (books["counted"], books["invalid"], books["records"]) == (counted, refused, sent), books
    assert sum(reasons(bed).values()) == refused, reasons(bed)
    faults = asyncio.run(recounts.faults_of_series(bed.database_url))
    assert not faults, faults
    return Outcome(sent, Difference(0, Decimal(0)), took)


# grouping

TEXTS: tuple[object, ...] = (
    None,
    "",
    "null",
    "NULL",
    "-",
    " ",
    "fast",
    "Fast",
    "FAST",
    "fast ",
    "caf\u00e9",
    "cafe\u0301",
    "\u212b",  # the Ångström sign, which is another letter once normalised
    "\u00c5",
    "ﬁ",
    "İ",
    "ß",
    "SS",
    "\u0001",
    "\t\n\r",
    "\u007f",
    "\u0085\u2028",
    "\ufeff",
    "\u200b",
    "\U0001f600",
    "\uffff",
    "\\u0000",
    "x" * 10_240,
    "x" * 10_239 + "y",
    "ü" * 10_240,
    "1:a",
    "4:null",
    "'; DROP TABLE rollups.file_download_aggregated; --",
    "\\N",
    '"',
    "%s {} $1",
    0,
    1,
    "1",
    "true",
    10**30,
)
REFUSED_TEXTS: tuple[str, ...] = ('"\\u0000"', '"a\\u0000b"', '"\\ud800"', "{}", "[1]", '"' + "x" * 70_000 + '"')


@fault(
    "grouping: null, missing, empty, NFC and NFD, case, 10 kB, control characters; killed in the middle",
    ci=True,
)
def grouping(bed: Bed) -> Outcome:
    rounds = max(3, bed.events // 4_000)
    good = [event(f"{n}-{i}", download_speed=one) for n in range(rounds) for i, one in enumerate(TEXTS)]
    good += [  # of another customer: in Python, which recounts, True is 1
        event(f"{n}-{one}", customer="boolean", download_speed=one) for n in range(rounds) for one in (True, False)
    ]
    good += [event(f"missing-{n}") for n in range(rounds)]
    plain = event("%s", download_speed="%s").decode()
    bad = [
        plain.replace('"%s"', f'"bad-{n}-{i}"', 1).replace('"%s"', one).encode()
        for n in range(rounds)
        for i, one in enumerate(REFUSED_TEXTS)
    ]
    bed.start("route", "work")
    load = bed.load(events=mixed(bed.traffic(), spread([*good, *bad])), over=8)
    load.reaches(0.5)
    for worker in bed.running:
        worker.kill()
        bed.restart(worker, wait=False)
    bed.recovering()
    outcome = bed.check(expected(bed, bad, text=_text))
    (ones,) = bed.query("SELECT count(*) AS n FROM rollups.file_download WHERE external_customer_id = 'odd'")
    distinct = len({_text(one) for one in TEXTS})
    assert ones["n"] == distinct, f"{ones['n']} groups, and there are {distinct}"
    return outcome


def _text(value: object) -> str | None:
    """As the contract has it: null is null, numbers and booleans are in their JSON form."""
    return value if value is None or isinstance(value, str) else json.dumps(value)
