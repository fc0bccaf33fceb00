"""For any partial history and any metric of a small grammar: rewritten over the partials = as written over true totals.

Histories revise every value up and down (a falling sum, a falling count even): the latest revision is the total.
"""

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics.support import CUSTOMER, DAY, DOWNLOADS, END, REQUESTS, START, WINDOW, Database, Series, unordered

GROUP_VALUES = st.sampled_from([None, "", "null", "a", "A", "ü'"])
NUMBERS = st.one_of(st.none(), st.integers(-50, 50), st.decimals(-(10**20), 10**20, places=9))


@st.composite
def histories(draw: st.DrawFn, groups: int, aggregates: int) -> list[Series]:
    values = st.tuples(st.integers(-20, 50), *[NUMBERS] * aggregates)
    keys = st.tuples(st.integers(0, 20), st.sampled_from([CUSTOMER, "globex"]), st.tuples(*[GROUP_VALUES] * groups))
    series = draw(st.dictionaries(keys, st.lists(values, min_size=1, max_size=4), max_size=12))
    return [Series(*key, tuple(partials)) for key, partials in series.items()]  # type: ignore[call-arg]


SERIES_COLUMNS = ("external_customer_id", "data_status", "timestamp", "timestamp_millis")
VALUES = {
    "external_customer_id": ["'acme'", "'globex'"],
    "data_status": ["'a'", "'A'", "''", "'null'", "'ü'''"],
    "timestamp": [f"'{DAY + n * WINDOW}'" for n in (0, 3, 9)] + ["TIMESTAMPTZ '2024-03-14' + INTERVAL '80 minutes'"],
    "timestamp_millis": ["1710374400000", "1710376200000", "1710379800000.5", "-1"],
    "aggregated_count": ["0", "7", "-3", "20"],
    "sum_duration": ["0", "0.000000001", "-12.5"],
}


@st.composite
def comparisons(draw: st.DrawFn, prefix: str) -> str:
    name = draw(st.sampled_from(sorted(VALUES)))
    value = st.sampled_from(VALUES[name])
    form = draw(st.sampled_from(["compare", "flipped", "null", "in", "between", "distinct", "own"]))
    column = prefix + name
    if form == "compare":
        return f"{column} {draw(st.sampled_from(['=', '<>', '<', '<=', '>', '>=']))} {draw(value)}"
    if form == "flipped":
        return f"{draw(value)} <= {column}"
    if form == "null":
        return f"{column} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    if form == "in":
        return f"{column} {draw(st.sampled_from(['', 'NOT ']))}IN ({draw(value)}, {draw(value)})"
    if form == "between":
        return f"{column} {draw(st.sampled_from(['', 'NOT ']))}BETWEEN {draw(value)} AND {draw(value)}"
    if form == "distinct":
        return f"{column} IS {draw(st.sampled_from(['', 'NOT ']))}DISTINCT FROM {draw(value)}"
    return f"LOWER({prefix}data_status) = {prefix}data_status"


def conditions(prefix: str) -> st.SearchStrategy[str]:
    """Conditions joined by AND, OR and NOT, with parentheses in some places and not in others."""
    return st.recursive(
        comparisons(prefix),
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map("".join),
            inner.map(lambda text: f"({text})"),
            inner.map(lambda text: f"NOT {text}"),
        ),
        max_leaves=5,
    )


@st.composite
def groupings(draw: st.DrawFn, prefix: str) -> list[str]:
    columns = [prefix + name for name in SERIES_COLUMNS]
    columns += [f"date_trunc('hour', {prefix}timestamp)", f"date_trunc('day', {prefix}timestamp, 'Asia/Kolkata')"]
    columns += [f"EXTRACT(hour FROM {prefix}timestamp AT TIME ZONE 'America/New_York')"]
    return draw(st.lists(st.sampled_from(columns), unique=True, max_size=3))


@st.composite
def aggregates(draw: st.DrawFn, prefix: str) -> list[str]:
    choices = [
        "COUNT(*)",
        f"COUNT({prefix}data_status)",
        f"COUNT(DISTINCT {prefix}data_status)",
        f"SUM({prefix}aggregated_count)",
        f"SUM({prefix}sum_duration)",
        f"MIN({prefix}sum_duration)",
        f"MAX({prefix}aggregated_count)",
        f"AVG({prefix}sum_duration)",
        f"COALESCE(SUM({prefix}sum_duration), 0)",
        f"SUM(CASE WHEN {draw(comparisons(prefix))} THEN {prefix}sum_duration ELSE 0 END)",
        f"SUM(SUM({prefix}aggregated_count)) OVER ()",
        f"RANK() OVER (ORDER BY SUM({prefix}sum_duration) DESC NULLS LAST)",
        f"GREATEST(SUM({prefix}aggregated_count)::numeric - 5, 0) * 0.01",
    ]
    chosen = draw(st.lists(st.sampled_from(choices), min_size=1, max_size=3))
    if draw(st.booleans()):
        chosen.append(f"SUM({prefix}aggregated_count) FILTER (WHERE {draw(comparisons(prefix))})")
    return [f"{aggregate} AS v{index}" for index, aggregate in enumerate(chosen)]


@st.composite
def aggregations(draw: st.DrawFn, source: str, prefix: str = "") -> str:
    groups = draw(groupings(prefix))
    outputs = [f"{group} AS g{index}" for index, group in enumerate(groups)] + draw(aggregates(prefix))
    text = f"SELECT {', '.join(outputs)} FROM {source}"
    if draw(st.booleans()):
        text += f" WHERE {draw(conditions(prefix))}"
    if groups:
        text += f" GROUP BY {', '.join(groups)}"
        if draw(st.booleans()):
            text += f" HAVING SUM({prefix}aggregated_count) > {draw(st.integers(-5, 30))}"
    return text


@st.composite
def joins(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"]))
    source = f"AGGREGATED_EVENTS('API_REQUEST') AS a {kind} AGGREGATED_EVENTS('api_request') AS b"
    if kind != "CROSS JOIN":
        source += " ON a.timestamp = b.timestamp"
        if kind != "FULL JOIN":  # Postgres has full joins on equalities only
            prefixes = draw(st.lists(st.sampled_from(["a.", "b."]), max_size=2))
            source += "".join(f" AND {draw(comparisons(prefix))}" for prefix in prefixes)
    return source


@st.composite
def metrics(draw: st.DrawFn) -> str:
    scan = "AGGREGATED_EVENTS('API_REQUEST')"
    form = draw(st.sampled_from(["plain", "subquery", "with", "union", "join", "exists", "in", "scalar", "window"]))
    if form == "plain":
        return draw(aggregations(scan))
    if form == "subquery":
        inner = f"(SELECT * FROM {scan} WHERE {draw(conditions(''))}) AS d"
        return draw(aggregations(inner, draw(st.sampled_from(["", "d."]))))
    if form == "with":
        return f"WITH d AS (SELECT * FROM {scan} WHERE {draw(conditions(''))}) {draw(aggregations('d'))}"
    if form == "union":
        parts = [f"SELECT timestamp, aggregated_count AS n FROM {scan} WHERE {draw(conditions(''))}" for _ in range(2)]
        return f" {draw(st.sampled_from(['UNION', 'UNION ALL', 'EXCEPT', 'INTERSECT']))} ".join(parts)
    if form == "exists":
        inner = f"SELECT 1 FROM {scan} AS b WHERE b.timestamp = a.timestamp AND {draw(conditions('b.'))}"
        return f"SELECT COUNT(*) FROM {scan} AS a WHERE {draw(comparisons('a.'))} AND EXISTS ({inner})"
    if form == "in":
        inner = f"SELECT b.data_status, b.timestamp FROM {scan} AS b WHERE {draw(conditions('b.'))}"
        return f"SELECT DISTINCT timestamp, sum_duration FROM {scan} WHERE (data_status, timestamp) IN ({inner})"
    if form == "scalar":
        inner = (
            f"SELECT SUM(b.sum_duration) FROM {scan} AS b WHERE b.timestamp <= a.timestamp AND {draw(conditions('b.'))}"
        )
        return f"SELECT a.timestamp, ({inner}) AS running FROM {scan} AS a WHERE {draw(conditions('a.'))}"
    if form == "window":
        frame = "PARTITION BY data_status ORDER BY timestamp, external_customer_id ROWS UNBOUNDED PRECEDING"
        total = f"SUM(aggregated_count) FILTER (WHERE {draw(comparisons(''))}) OVER ({frame})"
        return f"SELECT timestamp, {total} AS running FROM {scan} WHERE {draw(conditions(''))}"
    return draw(aggregations(draw(joins()), draw(st.sampled_from(["a.", "b."]))))


@settings(max_examples=150)
@given(history=histories(1, 1), metric=metrics(), restricted=st.booleans())
def test_rewritten_equals_naive(scratch: Database, history: list[Series], metric: str, restricted: bool) -> None:
    scratch.load(REQUESTS, history)
    result = scratch.metric(metric, restricted=restricted)
    naive = scratch.naive(metric, "restricted" if restricted else "naive")
    assert result.columns == naive.columns
    assert unordered(result) == unordered(naive)


LONG_FORM = """
SELECT {outputs}, MAX(aggregated_count) AS n, MAX(sum_bytes) AS s, MIN(min_bytes) AS low, MAX(max_bytes) AS high
FROM events WHERE event_name = 'file_download_aggregated'{condition} GROUP BY {outputs}
"""


@settings(max_examples=50)
@given(
    history=histories(2, 3), condition=st.sampled_from(["", " AND download_speed = 'a'", " AND data_clusterid IS NULL"])
)
def test_long_form_equals_naive(scratch: Database, history: list[Series], condition: str) -> None:
    scratch.load(DOWNLOADS, history)
    outputs = "timestamp, external_customer_id, download_speed, data_clusterid"
    result = scratch.metric(LONG_FORM.format(outputs=outputs, condition=condition))
    naive = scratch.naive(
        f"SELECT {outputs}, aggregated_count AS n, sum_bytes AS s, min_bytes AS low, max_bytes AS high"
        f" FROM AGGREGATED_EVENTS('file_download') WHERE TRUE{condition}"
    )
    assert result.columns == naive.columns
    assert unordered(result) == unordered(naive)


def test_the_greatest_partial_is_wrong_where_sums_fall(scratch: Database) -> None:
    """A refund makes a sum fall: the hand-written MAX over the partials bills what was taken back."""
    partials = ((1, Decimal(100)), (2, Decimal("60.5")))
    scratch.load(REQUESTS, [Series(window, "acme", ("a",), partials) for window in range(3)])
    by_hand = scratch.plain(
        "SELECT SUM(s) FROM (SELECT MAX(sum_duration) AS s FROM rollups.api_request_aggregated"
        " GROUP BY timestamp_millis, external_customer_id, data_status) AS w"
    )
    assert by_hand.rows == [(300,)]
    right = [(Decimal("181.5"),)]
    assert scratch.metric("SELECT SUM(sum_duration) FROM AGGREGATED_EVENTS('API_REQUEST')").rows == right
    long_form = (
        "SELECT SUM(s) FROM (SELECT MAX(sum_duration) AS s FROM events WHERE event_name = 'API_REQUEST_aggregated'"
        " GROUP BY timestamp_millis, external_customer_id, data_status)"
    )
    assert scratch.metric(long_form).rows == right


@settings(max_examples=25)
@given(history=histories(1, 1), condition=conditions(""), latest=st.booleans())
def test_latest_and_earliest_by_equal_naive(
    scratch: Database, history: list[Series], condition: str, latest: bool
) -> None:
    scratch.load(REQUESTS, history)
    scan, by = "AGGREGATED_EVENTS('API_REQUEST')", "LATEST_BY" if latest else "EARLIEST_BY"
    ordered = f"timestamp {'DESC' if latest else 'ASC'}, sum_duration DESC NULLS LAST"
    result = scratch.metric(
        f"SELECT external_customer_id, {by}(sum_duration, timestamp) AS v FROM {scan} WHERE {condition} GROUP BY 1"
    )
    naive = scratch.naive(
        f"SELECT DISTINCT ON (external_customer_id) external_customer_id, sum_duration AS v FROM {scan}"
        f" WHERE {condition} ORDER BY external_customer_id, {ordered}"
    )
    assert unordered(result) == unordered(naive)


def test_the_period_is_half_open(scratch: Database) -> None:
    first, last = (START - DAY) // WINDOW, (END - DAY) // WINDOW
    scratch.load(REQUESTS, [Series(window, "acme", ("a",), ((1, None),)) for window in range(last + 3)])
    result = scratch.metric(
        "SELECT MIN(timestamp), MAX(timestamp), COUNT(*) FROM AGGREGATED_EVENTS('API_REQUEST')", restricted=True
    )
    assert result.rows == [(START, END - WINDOW, last - first)]
