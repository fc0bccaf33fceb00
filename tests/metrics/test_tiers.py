"""With tiers and without: the same answer, for any metric, period, zone and set of stale steps.

The tiers are wrong in every step that is declared stale, so that reading one there shows.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st

from billable_metrics.catalog import Catalog
from billable_metrics.instants import instant_us
from billable_metrics.rewriter import rewrite
from billable_metrics.rules.choose_tiers import RANGES_MAX
from billable_metrics.zones import has_whole_hours, is_utc
from tests.metrics.support import (
    CATALOG,
    CUSTOMER,
    DAY,
    DOWNLOADS,
    WINDOW,
    Database,
    Pair,
    Series,
    load_pairs,
    unordered,
)
from tests.metrics.tiers import HOUR, build, day, rows, spoiled, tiers, with_tiers

SCAN = "AGGREGATED_EVENTS('file_download')"
DAYS = (9, 10, 11, 30, 31, 32, 37, 38)
"""Around the changes of the clock: New York on the 10th, Berlin on the 31st, Lord Howe on the 7th of April."""

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
FRESH = with_tiers(CATALOG, tiers())


@pytest.fixture(scope="module")
def filled(scratch: Database) -> Iterator[Database]:
    """Some 900 series in eight days; of most hours few windows, of some tuples no value in one window or another."""
    chance = random.Random(7)
    made = {}
    for _ in range(900):
        moment = day(chance.choice(DAYS), chance.randrange(24), chance.randrange(6) * 10)
        key = ((moment - DAY) // WINDOW, chance.choice((CUSTOMER, "globex")), chance.choice((None, "", "fast", "slow")))
        partials = []
        for _ in range(chance.randint(1, 3)):
            value = [None if chance.random() < 0.2 else Decimal(chance.randint(-999, 999)) / 100 for _ in range(3)]
            partials.append((chance.randint(0, 50), *value))
        made[key] = Series(key[0], key[1], (key[2], None), tuple(partials))
    scratch.load(DOWNLOADS, made.values())
    build(scratch)
    scratch.execute("ANALYZE")
    yield scratch
    scratch.execute("DROP SCHEMA tiers CASCADE")


INSTANTS = st.builds(
    lambda number, hour, past: day(number, hour) + past,
    st.sampled_from(DAYS),
    st.integers(0, 23) | st.just(0),
    st.sampled_from(
        [timedelta(0), timedelta(0), timedelta(minutes=10), timedelta(minutes=55), timedelta(microseconds=1)]
    ),
)


def _literal(moment: datetime) -> list[str]:
    text = moment.isoformat(sep=" ")
    local = (moment + 2 * HOUR).replace(tzinfo=None).isoformat()
    return [
        *(
            f"'{text}'",
            f"TIMESTAMPTZ '{text}'",
            f"'{local}+02'::timestamptz",
            f"TIMESTAMP '{text.split('+', maxsplit=1)[0]}'",
        ),
        *(f"TIMESTAMPTZ '{moment - 3 * HOUR}' + INTERVAL '180 minutes'", f"('{text}'::timestamptz)"),
    ]


@st.composite
def bounds(draw: st.DrawFn) -> str:
    first, second = (draw(INSTANTS.map(_literal).flatmap(st.sampled_from)) for _ in range(2))
    form = draw(st.sampled_from(["compare", "flipped", "between", "millis"]))
    operator = draw(st.sampled_from([">=", ">", "<", "<="]))
    if form == "between":
        return f"timestamp {draw(st.sampled_from(['', 'NOT ']))}BETWEEN {first} AND {second}"
    if form == "millis":
        return f"timestamp_millis {operator} {draw(INSTANTS).timestamp() * 1000:.0f}"
    return f"{first} {operator} timestamp" if form == "flipped" else f"timestamp {operator} {first}"


GROUP_TESTS = st.sampled_from(
    [
        *("download_speed = 'fast'", "download_speed IS NULL", "external_customer_id <> 'globex'", "TRUE"),
        *("download_speed IN ('', 'slow')", "LOWER(download_speed) = 'fast'", "data_clusterid IS NOT NULL"),
    ]
)
OTHER_TESTS = st.sampled_from(
    ["aggregated_count > 25", "sum_bytes IS NOT NULL", "timestamp = '2024-03-10 01:00'", "timestamp <> '2024-03-31'"]
)


def conditions(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map(lambda parts: f"({''.join(parts)})"),
            inner.map(lambda text: f"NOT ({text})"),
        ),
        max_leaves=3,
    )


STEADY_TESTS = conditions(bounds() | GROUP_TESTS)
ANY_TESTS = conditions(bounds() | GROUP_TESTS | OTHER_TESTS)


@st.composite
def groupings(draw: st.DrawFn) -> str:
    zone, unit = draw(st.sampled_from(ZONES)), draw(st.sampled_from(["hour", "day", "week", "month"]))
    choices = [
        *("external_customer_id", "download_speed", "COALESCE(download_speed, 'none')"),
        *(f"date_trunc('{unit}', timestamp)", f"date_trunc('{unit}', timestamp, '{zone}')"),
        *(f"date_trunc('{unit}', timestamp AT TIME ZONE '{zone}') AT TIME ZONE '{zone}'", "timestamp::date"),
        *("EXTRACT(hour FROM timestamp)", f"EXTRACT(dow FROM timestamp AT TIME ZONE '{zone}')"),
        *(f"(timestamp AT TIME ZONE '{zone}')::date", f"date_trunc('{unit}', timestamp) + INTERVAL '1 day'"),
        f"CASE WHEN {draw(STEADY_TESTS)} THEN 'in' ELSE download_speed END",
    ]
    return draw(st.sampled_from(choices))


@st.composite
def steady_aggregates(draw: st.DrawFn) -> str:
    test = draw(STEADY_TESTS)
    choices = [
        *("SUM(aggregated_count)", "SUM(count::numeric)", "SUM(sum_bytes)", "MIN(min_bytes)", "MAX(max_bytes)"),
        *("COUNT(DISTINCT download_speed)", "MAX(external_customer_id)", "BOOL_OR(download_speed = 'fast')"),
        *(f"SUM(CASE WHEN {test} THEN sum_bytes ELSE 0 END)", f"SUM(sum_bytes) FILTER (WHERE {test})"),
        *(f"COALESCE(SUM(aggregated_count) FILTER (WHERE {test}), 0)", "SUM(COALESCE(sum_bytes, 0))"),
        *(f"MAX(CASE WHEN {test} THEN max_bytes END)", f"MIN(CASE WHEN {test} THEN min_bytes ELSE 3 END)"),
        *("COUNT(DISTINCT date_trunc('day', timestamp))", "GREATEST(SUM(sum_bytes), 5) * 0.01 + SUM(count)"),
        "SUM(SUM(aggregated_count)) OVER ()",
    ]
    return draw(st.sampled_from(choices))


OTHER_AGGREGATES = [
    *(
        "COUNT(*)",
        "COUNT(download_speed)",
        "MAX(aggregated_count)",
        "MIN(sum_bytes)",
        "SUM(min_bytes)",
        "MAX(min_bytes)",
    ),
    *("SUM(DISTINCT aggregated_count)", "MAX(timestamp)", "LATEST_BY(sum_bytes, timestamp)", "SUM(2)"),
    *(
        "ROUND(AVG(aggregated_count), 6)",
        "SUM(sum_bytes + min_bytes)",
        "SUM(CASE WHEN sum_bytes > 0 THEN count END)",
    ),
    *("SUM(CASE WHEN download_speed = 'fast' THEN max_bytes END)", "SUM(sum_bytes) FILTER (WHERE count > 9)"),
    *("SUM(CASE WHEN download_speed = 'fast' THEN 1 ELSE 0 END)", "COUNT(DISTINCT timestamp)", "MAX(-max_bytes)"),
    *("MIN(COALESCE(min_bytes, 0))", "SUM(COALESCE(sum_bytes, 1))", "BOOL_AND(count > 9)", "SUM(sum_bytes / 3)"),
]


@st.composite
def aggregations(draw: st.DrawFn, steady: bool, where: str = "") -> str:
    groups = draw(st.lists(groupings(), max_size=2, unique=True))
    aggregates = draw(st.lists(steady_aggregates(), min_size=1, max_size=3))
    tested = draw(st.lists(STEADY_TESTS, max_size=2)) + ([where] if where else [])
    if not steady:
        aggregates += draw(st.lists(st.sampled_from(OTHER_AGGREGATES), max_size=1))
        tested += draw(st.lists(ANY_TESTS, max_size=1))
        groups += draw(st.lists(st.sampled_from(["timestamp", "aggregated_count", "timestamp_millis"]), max_size=1))
    outputs = [*(f"{group} AS g{n}" for n, group in enumerate(groups))]
    outputs += [f"{aggregate} AS v{n}" for n, aggregate in enumerate(aggregates)]
    text = f"SELECT {', '.join(outputs)} FROM {SCAN}"
    if tested:
        text += f" WHERE {' AND '.join(tested)}"
    return text + (f" GROUP BY {', '.join(f'g{n}' for n in range(len(groups)))}" if groups else "")


GROUP_BOUNDS = st.sampled_from(["timestamp < '2024-03-10'", "timestamp > '2024-04-08'", "download_speed = 'fast'"])


@st.composite
def metrics(draw: st.DrawFn) -> str:
    form = draw(st.sampled_from(["steady"] * 4 + ["any", "distinct", "in", "correlated", "outer", "join", "with"]))
    if form == "distinct":
        return f"SELECT DISTINCT {draw(groupings())} AS g FROM {SCAN} WHERE {draw(STEADY_TESTS)}"
    if form == "in":
        inner = f"SELECT external_customer_id FROM {SCAN} WHERE {draw(STEADY_TESTS)} GROUP BY 1 HAVING SUM(count) > 300"
        return draw(aggregations(True, f"external_customer_id IN ({inner})"))
    if form == "correlated":
        inner = f"SELECT SUM(b.count) FROM {SCAN} AS b WHERE b.external_customer_id = a.external_customer_id"
        return f"SELECT external_customer_id, SUM(a.sum_bytes), ({inner}) AS n FROM {SCAN} AS a GROUP BY 1"
    if form == "outer":
        inner = f"SELECT SUM(d.count) FROM {SCAN} AS b WHERE b.{draw(GROUP_BOUNDS)} LIMIT 1"
        return f"SELECT d.external_customer_id, ({inner}) AS n FROM {SCAN} AS d GROUP BY 1"
    if form == "join":
        both = f"{SCAN} AS a JOIN {SCAN} AS b ON a.timestamp = b.timestamp AND a.download_speed = b.download_speed"
        return f"SELECT SUM(a.count), MAX(b.max_bytes) FROM {both} WHERE a.external_customer_id = 'acme'"
    if form == "with":
        return f"WITH x AS ({draw(aggregations(True))}) SELECT * FROM x UNION ALL SELECT * FROM x"
    return draw(aggregations(form == "steady"))


PERIODS = st.tuples(st.none() | INSTANTS, st.none() | INSTANTS).map(
    lambda pair: pair if None in pair or pair[0] < pair[1] else (None, pair[1])
)
STALE = st.lists(st.builds(day, st.sampled_from(DAYS), st.integers(0, 23)), max_size=5)
STALE_DAYS = st.lists(st.sampled_from(DAYS).map(day), max_size=2)


@settings(max_examples=150)
@given(metric=metrics(), period=PERIODS, one=st.booleans(), hours=STALE, days=STALE_DAYS)
def test_the_answer_is_the_same_with_and_without(
    filled: Database,
    metric: str,
    period: tuple[datetime | None, datetime | None],
    one: bool,
    hours: list[datetime],
    days: list[datetime],
) -> None:
    asked = {"customer": CUSTOMER if one else None, "start": period[0], "end": period[1]}
    made = tiers(hours, days)
    with spoiled(filled, made):
        with_them = rewrite(metric, with_tiers(CATALOG, made), **asked)  # type: ignore[arg-type]
        without = rewrite(metric, CATALOG, **asked)  # type: ignore[arg-type]
        assert unordered(rows(filled, with_them)) == unordered(rows(filled, without)), "\n".join(with_them.notes)


@settings(max_examples=60)
@given(metric=aggregations(True))
def test_steady_metrics_read_tiers(metric: str) -> None:
    """Without this one, the property above would hold for tiers that are never read."""
    (note,) = rewrite(metric, FRESH).notes
    cut = note.endswith(("because edges cut the hour", "because its period holds no window"))
    if any(name in metric for name in ZONES[3:]):
        assert "are not whole hours of UTC" in note or cut
    else:
        assert note.startswith(("file_download: day tier", "file_download: hour tier")) or cut


READS = [  # what is asked, how the note about it begins
    ("SUM(aggregated_count), SUM(sum_bytes), MIN(min_bytes), MAX(max_bytes)", "day tier"),
    ("COUNT(DISTINCT download_speed), MIN(external_customer_id), BOOL_AND(download_speed = 'fast')", "day tier"),
    (
        "SUM(count) FILTER (WHERE download_speed = 'fast'), COALESCE(SUM(sum_bytes), 0) / NULLIF(SUM(count), 0)",
        "day tier",
    ),
    ("SUM(CASE download_speed WHEN 'fast' THEN count WHEN 'slow' THEN NULL ELSE 0 END)", "day tier"),
    ("date_trunc('month', timestamp, 'UTC'), SUM(count)", "day tier"),
    ("date_trunc('hour', timestamp), SUM(count)", "hour tier"),
    (
        "date_trunc('day', timestamp, 'Europe/Berlin'), SUM(count)",
        "hour tier; the rest from partials, because zones are",
    ),
    ("timestamp::date, EXTRACT(isodow FROM timestamp), SUM(count)", "day tier"),
    ("EXTRACT(hour FROM timestamp), SUM(count)", "hour tier"),
    ("SUM(count) FILTER (WHERE timestamp < '2024-03-11')", "day tier"),
    (
        "SUM(count) FILTER (WHERE timestamp < '2024-03-11 10:00')",
        "day tier; 24 hours from the hour tier, because edges cut",
    ),
    (
        "SUM(count) FILTER (WHERE timestamp_millis < 1710151200000)",
        "day tier; 24 hours from the hour tier, because edges cut",
    ),
    (
        "SUM(count) FILTER (WHERE timestamp <= '2024-03-11')",
        "day tier; 23 hours from the hour tier, because edges cut the day; 6",
    ),
    ("SUM(count) FILTER (WHERE timestamp >= date_trunc('month', now()) - INTERVAL '2 months')", "day tier"),
    ("SUM(count) FILTER (WHERE timestamp < current_date)", "day tier"),
    ("SUM(count) FILTER (WHERE timestamp < date_trunc('hour', now()))", "hour tier"),
    ("SUM(count) FILTER (WHERE timestamp <= current_date)", "partials, because the time is compared with something"),
    ("SUM(count) FILTER (WHERE timestamp < now())", "partials, because the time is compared with something"),
    ("SUM(count) FILTER (WHERE timestamp = '2024-03-11')", "partials, because timestamp is read of each window"),
    ("date_trunc('minute', timestamp), SUM(count)", "partials, because its unit of time is shorter than an hour"),
    (
        "date_trunc('day', timestamp, 'Asia/Kolkata'), SUM(count)",
        "partials, because hours in Asia/Kolkata are not whole",
    ),
    ("date_trunc('day', timestamp, 'CET'), SUM(count)", "partials, because hours in CET are not whole"),
    ("date_trunc('day', timestamp, download_speed), SUM(count)", "partials, because its time zone is not a plain"),
    ("EXTRACT(minute FROM timestamp), SUM(count)", "partials, because its unit of time is shorter than an hour"),
    ("COUNT(*), SUM(count)", "partials, because COUNT(*) depends on each window"),
    ("COUNT(download_speed)", "partials, because COUNT(download_speed) depends on each window"),
    ("AVG(count)", "partials, because AVG(aggregated_count) depends on each window"),
    ("MAX(count)", "partials, because MAX(aggregated_count) depends on each window"),
    ("MAX(min_bytes)", "partials, because MAX(min_bytes) depends on each window"),
    ("MAX(timestamp)", "partials, because MAX(timestamp) depends on each window"),
    ("SUM(max_bytes)", "partials, because SUM(max_bytes) depends on each window"),
    ("SUM(DISTINCT count)", "partials, because SUM(DISTINCT aggregated_count) depends on each window"),
    ("SUM(1)", "partials, because SUM(1) depends on each window"),
    ("LATEST_BY(count, timestamp)", "partials, because timestamp is read of each window"),
    ("PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY count)", "partials, because PERCENTILE_DISC(0.5) WITHIN GROUP"),
    ("SUM(count) FILTER (WHERE sum_bytes > 0)", "partials, because sum_bytes is read of each window"),
    ("SUM(count) OVER (), timestamp", "partials, because its windows are listed one by one"),
    ("aggregated_count", "partials, because its windows are listed one by one"),
    ("*", "partials, because its windows are listed one by one"),
    ("DISTINCT download_speed", "day tier"),
    ("DISTINCT aggregated_count", "partials, because aggregated_count is read of each window"),
    ("DISTINCT ON (download_speed) download_speed", "partials, because its windows are listed one by one"),
    ("DISTINCT download_speed, ROW_NUMBER() OVER ()", "partials, because its windows are listed one by one"),
    ("SUM(SUM(count)) OVER (), COUNT(*) OVER (PARTITION BY SUM(count))", "day tier"),
]


@pytest.mark.parametrize(("outputs", "reads"), READS)
def test_what_is_read(outputs: str, reads: str) -> None:
    metric = f"SELECT {outputs} FROM {SCAN}"
    if ", SUM(count)" in outputs and "timestamp" in outputs:
        metric += f" GROUP BY {', '.join(str(n) for n in range(1, 1 + outputs.count('timestamp')))}"
    (note,) = rewrite(metric, FRESH).notes
    assert note.startswith(f"file_download: {reads}"), note
    assert ";" in reads or "; " not in note


@pytest.mark.parametrize("aggregate", OTHER_AGGREGATES)
def test_what_depends_on_single_windows_reads_them(aggregate: str) -> None:
    assert rewrite(f"SELECT {aggregate} FROM {SCAN}", FRESH).notes[0].startswith("file_download: partials, because ")


@pytest.mark.parametrize(
    "condition",
    [
        "timestamp_millis >= 1710115200000",
        "1710115200000 <= timestamp_millis AND download_speed LIKE 'f%'",
        "timestamp BETWEEN '2024-03-11' AND '2024-03-31 23:50'",
        "NOT (timestamp < '2024-03-11' OR download_speed = 'slow') AND LENGTH(download_speed) > 1",
        "external_customer_id IN (SELECT external_customer_id FROM AGGREGATED_EVENTS('API_REQUEST'))",
    ],
)
def test_conditions_that_tiers_bear(condition: str) -> None:
    assert rewrite(f"SELECT SUM(count) FROM {SCAN} WHERE {condition}", FRESH).notes[0] == "file_download: day tier"


def test_scans_that_tiers_cannot_serve() -> None:
    def notes(metric: str) -> list[str]:
        return rewrite(metric, FRESH).notes

    grouped = "GROUP BY timestamp, external_customer_id, download_speed, data_clusterid"
    long_form = f"SELECT MAX(count) FROM events WHERE event_name = 'file_download_aggregated' {grouped}"
    assert notes(long_form) == ["events: partials, because the long form reads partials"]
    assert notes(f"SELECT SUM(a.count) FROM {SCAN} AS a, {SCAN} AS b") == [
        *("a: partials, because it is joined", "b: partials, because it is joined")
    ]
    inner = f"SELECT MAX(b.max_bytes) FROM {SCAN} AS b WHERE b.download_speed = a.download_speed"
    assert notes(f"SELECT SUM(count), ({inner}) FROM {SCAN} AS a GROUP BY download_speed") == [
        "a: partials, because a subquery reads each of its windows",
        "b: partials, because it refers to the query around it",
    ]
    assert notes(f"SELECT (SELECT SUM(a.count) FROM {SCAN} AS b) FROM {SCAN} AS a") == [
        "a: partials, because its windows are listed one by one",
        "b: partials, because SUM(aggregated_count) depends on each window",
    ]
    assert notes("SELECT SUM(count) FROM AGGREGATED_EVENTS('API_REQUEST')") == [
        "api_request: partials, because it has no tiers coarser than its windows"
    ]


TOTALS = f"SELECT SUM(aggregated_count), SUM(sum_bytes), MIN(min_bytes), MAX(max_bytes) FROM {SCAN}"


def test_what_is_cut_or_stale_comes_from_the_next_table(filled: Database) -> None:
    made = tiers([day(31, 5), day(31, 6), day(10, 3)])
    asked = {"customer": CUSTOMER, "start": day(9, 7, 20), "end": day(38, 9)}
    rewritten = rewrite(TOTALS, with_tiers(CATALOG, made), **asked)  # type: ignore[arg-type]
    assert rewritten.notes[0].split("; ") == [
        "file_download: day tier",
        "70 hours from the hour tier, because edges cut the day and the day tier is not up to date there",
        "22 windows from partials, because edges cut the hour and the hour tier is not up to date there",
    ]
    with spoiled(filled, made):
        assert rows(filled, rewritten) == rows(filled, rewrite(TOTALS, CATALOG, **asked))  # type: ignore[arg-type]
        blind = rewrite(TOTALS, FRESH, **asked)  # type: ignore[arg-type]
        assert rows(filled, blind) != rows(filled, rewritten)  # what is stale is wrong indeed


def test_many_stale_hours_are_read_in_few_ranges(filled: Database) -> None:
    made = tiers([day(number, hour) for number in DAYS for hour in range(0, 24, 2)])
    rewritten = rewrite(TOTALS, with_tiers(CATALOG, made))
    assert rewritten.sql.count('FROM "rollups"."file_download_aggregated"') == RANGES_MAX
    with spoiled(filled, made):
        assert rows(filled, rewritten) == rows(filled, rewrite(TOTALS, CATALOG))


def test_all_stale_is_as_without_tiers() -> None:
    hours = [day(number, hour) for number in range(9, 12) for hour in range(24)]
    rewritten = rewrite(TOTALS, with_tiers(CATALOG, tiers(hours)), start=day(9), end=day(12))
    assert rewritten.notes == ["file_download: partials, because the hour tier is not up to date there"]
    assert rewritten.sql == rewrite(TOTALS, CATALOG, start=day(9), end=day(12)).sql


@pytest.mark.parametrize(
    ("window", "read"), [(HOUR, "day tier"), (24 * HOUR, "partials, because it has no"), (7 * HOUR, "p")]
)
def test_tiers_that_windows_do_not_divide_are_not_read(window: timedelta, read: str) -> None:
    table = FRESH.table("file_download")
    assert table is not None
    catalog = Catalog([replace(table, window_ms=window // timedelta(milliseconds=1))])
    assert rewrite(TOTALS, catalog, start=day(9, 1)).notes[0].startswith(f"file_download: {read}")


def test_a_parameter_is_an_edge() -> None:
    metric = f"{TOTALS} WHERE timestamp < :until AND download_speed = :speed"
    parameters = {"until": ("TIMESTAMPTZ", day(31, 10)), "speed": ("TEXT", "fast")}
    rewritten = rewrite(metric, FRESH, parameters=parameters)
    assert rewritten.notes == ["file_download: day tier; 10 hours from the hour tier, because edges cut the day"]
    assert rewritten.params == [day(31, 10), "fast"]


@pytest.mark.parametrize(
    "asked",
    [
        {"start": datetime.min.replace(tzinfo=UTC)},
        {"end": datetime.max.replace(tzinfo=UTC)},
    ],
)
def test_times_beyond_the_calendar(filled: Database, asked: dict[str, datetime]) -> None:
    rewritten = rewrite(TOTALS, FRESH, **asked)  # type: ignore[arg-type]
    assert rewritten.notes == ["file_download: partials, because it asks for times that no calendar has"]
    assert rows(filled, rewritten) == rows(filled, rewrite(TOTALS, CATALOG))


def test_a_note_for_the_last_hour_there_is(filled: Database) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    stale = ((datetime.min.replace(tzinfo=UTC), day(9)), (last.replace(minute=0, second=0, microsecond=0), last))
    made = tuple(replace(tier, stale=stale) for tier in tiers())
    rewritten = rewrite(TOTALS, with_tiers(CATALOG, made))
    assert rewritten.notes[0].startswith("file_download: day tier; ")
    assert rows(filled, rewritten) == rows(filled, rewrite(TOTALS, CATALOG))


FIXTURES = load_pairs(Path(__file__).parent / "tiers.sql")
STALE_HOUR = tiers([day(10, 5)])


@pytest.mark.parametrize("pair", FIXTURES, ids=str)
def test_text(pair: Pair, filled: Database) -> None:
    rewritten = rewrite(
        pair.metric, with_tiers(CATALOG, STALE_HOUR), customer=CUSTOMER, start=day(9), end=day(12, 0, 30)
    )
    assert rewritten.sql == pair.expected
    with spoiled(filled, STALE_HOUR):
        assert rows(filled, rewritten).rows


CONSTANTS = [
    *(
        "'2024-03-10'",
        "'2024-03-10 01:02'",
        "'2024-03-10T01:02:03'",
        "'2024-03-10 01:02:03.000001'",
        "DATE '2024-03-10'",
    ),
    *("'2024-03-10 01:02Z'", "'2024-03-10 01:02:03.5+05:30'", "'2024-03-10 01:02-03'", "'0001-01-01'", "'9999-12-31'"),
    *("TIMESTAMPTZ '2024-03-10 01:02+02'", "TIMESTAMP '2024-03-10 01:02'", "('2024-03-10'::timestamptz)"),
    *("TIMESTAMPTZ '2024-03-10' + INTERVAL '90 minutes'", "TIMESTAMP '2024-03-10 10:00' - INTERVAL '2 weeks'"),
    *("DATE '2024-03-10' + INTERVAL '1 day'", "TIMESTAMPTZ '2024-03-31' + INTERVAL '1' DAY"),
]
LEFT_TO_POSTGRES = [
    *("'2024-03-10+02'", "TIMESTAMP '2024-03-10 01:02+02'", "DATE '2024-03-10 23:00'", "'2024-3-1'", "'10 March 2024'"),
    *("'2024-03-10 24:00'", "'now'", "'infinity'", "'2024-03-10 01:02 Europe/Berlin'", "'2024-03-10 01:02:03.1234567'"),
    *("TIMESTAMPTZ '2024-01-31' + INTERVAL '1 month'", "TIMESTAMPTZ '2024-01-31' + INTERVAL '1 day 2 hours'"),
    *("'2024-03-10 01:02:03.6'::timestamptz(0)", "DATE '2024-03-10' + 1", "now()", "LEAST('2024-01-01', now())"),
]


def test_constants_are_read_as_postgres_reads_them(filled: Database) -> None:
    def read(text: str) -> int | None:
        return instant_us(sqlglot.parse_one(text, dialect="postgres"), [])

    whole = ", ".join(
        f"extract(epoch FROM (SELECT CASE WHEN TRUE THEN {text} ELSE t END)) * 1000000" for text in CONSTANTS
    )
    (row,) = filled.plain(f"SELECT {whole} FROM (SELECT now() AS t) AS x").rows
    assert [read(text) for text in CONSTANTS] == list(row)
    assert [read(text) for text in LEFT_TO_POSTGRES] == [None] * len(LEFT_TO_POSTGRES)


def test_zones() -> None:
    whole = ("UTC", "Etc/UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo")
    odd = (
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Africa/Monrovia",
        "CET",
        "EST5EDT",
        "+02",
        "Nowhere/Atall",
        "../x",
        "",
    )
    assert [has_whole_hours(zone) for zone in (*whole, *odd)] == [True] * len(whole) + [False] * len(odd)
    assert [is_utc(zone) for zone in ("utc", "Etc/UTC", "Europe/London", "UTC0")] == [True, True, False, False]
