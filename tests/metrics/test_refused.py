"""Hostile or unsupported text is refused before Postgres sees any of it; what is let through stays harmless.

The corpus is grouped by what it tries. Every refusal names line and column, unless the text as a whole is meant.
"""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billable_metrics.parse import JOINS_MAX, NESTING_MAX, SQL_CHARACTERS_MAX, TOKENS_MAX
from billable_metrics.rewriter import rewrite
from billable_metrics.rules.find_scans import SCANS_MAX
from rollup_engine.errors import MetricError
from tests.metrics.support import CATALOG, CUSTOMER, Database

T = "AGGREGATED_EVENTS('file_download')"

ATTACKS = {
    "statements": [
        "SELECT 1; DROP TABLE rollups.file_download_aggregated",
        f"SELECT COUNT(*) FROM {T}; SELECT 1",
        f"SELECT COUNT(*) FROM {T};;",
        "DELETE FROM rollups.file_download_aggregated",
        "INSERT INTO rollups.file_download_aggregated SELECT * FROM rollups.file_download_aggregated",
        "UPDATE rollups.file_download_aggregated SET count = 0",
        "MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE",
        "TRUNCATE rollups.file_download_aggregated",
        "DROP TABLE x",
        "CREATE TABLE x AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER ROLE postgres SUPERUSER",
        "GRANT ALL ON ALL TABLES IN SCHEMA rollups TO PUBLIC",
        "COPY rollups.file_download_aggregated TO PROGRAM 'sh'",
        "COPY (SELECT 1) TO '/tmp/x'",
        "DO $$ BEGIN PERFORM pg_sleep(10); END $$",
        "SET statement_timeout = 0",
        "RESET ALL",
        "SET ROLE postgres",
        "SHOW data_directory",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "VACUUM",
        "ANALYZE",
        "EXPLAIN ANALYZE SELECT 1",
        "LISTEN x",
        "NOTIFY x",
        "LOCK TABLE rollups.file_download_aggregated",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "CALL p()",
        "DECLARE c CURSOR FOR SELECT 1",
        "LOAD 'x'",
        "VALUES (1)",
        "TABLE pg_authid",
        f"SELECT * INTO x FROM {T}",
        f"WITH x AS (DELETE FROM rollups.file_download_aggregated RETURNING *) SELECT COUNT(*) FROM x, {T}",
        f"WITH x AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT COUNT(*) FROM {T}",
        f"WITH x AS (UPDATE t SET a = 1 RETURNING 1) SELECT COUNT(*) FROM {T}",
        f"WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT COUNT(*) FROM x, {T}",
        f"SELECT COUNT(*) FROM {T} FOR UPDATE",
        f"SELECT COUNT(*) FROM {T} FOR SHARE SKIP LOCKED",
        f"EXPLAIN SELECT COUNT(*) FROM {T}",
        "",
        ";",
        "-- nothing",
        "SELECT",
        "not SQL at all",
    ],
    "tables": [
        "SELECT 1",
        "SELECT * FROM pg_class",
        "SELECT * FROM pg_catalog.pg_authid",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM rollups.file_download_aggregated",
        "SELECT * FROM file_download",
        "SELECT * FROM rollup_engine.progress",
        f"SELECT * FROM {T}, pg_shadow",
        f"SELECT * FROM {T} JOIN pg_user ON true",
        f"SELECT (SELECT passwd FROM pg_shadow LIMIT 1) FROM {T}",
        f"SELECT COUNT(*) FROM {T} WHERE EXISTS (SELECT 1 FROM pg_shadow)",
        f"SELECT COUNT(*) FROM {T} UNION SELECT 1 FROM pg_shadow",
        f"SELECT COUNT(*) FROM {T} UNION ALL TABLE pg_shadow",
        f"WITH x AS (SELECT * FROM pg_shadow) SELECT COUNT(*) FROM {T}",
        f"WITH x AS (SELECT * FROM y), y AS (SELECT * FROM {T}) SELECT * FROM x",
        f"WITH x AS (SELECT * FROM x) SELECT * FROM x, {T}",
        "SELECT * FROM rollups.AGGREGATED_EVENTS('file_download')",
        "SELECT * FROM AGGREGATED_EVENTS('nothing_like_it')",
        "SELECT * FROM AGGREGATED_EVENTS('file_download_aggregated\" --')",
        "SELECT * FROM AGGREGATED_EVENTS(download_speed)",
        "SELECT * FROM AGGREGATED_EVENTS('file_download', 'API_REQUEST')",
        "SELECT * FROM AGGREGATED_EVENTS()",
        "SELECT * FROM AGGREGATED_EVENTS(('file_download'))",
        "SELECT * FROM AGGREGATED_EVENTS('file' || '_download')",
        f"SELECT * FROM {T} WITH ORDINALITY",
        f"SELECT * FROM {T} TABLESAMPLE SYSTEM (1)",
        f"SELECT * FROM ONLY {T}",
        f"SELECT * FROM {T} AS t(a, b)",
        f"SELECT 1 FROM {T} AS a, (SELECT a.timestamp FROM {T} AS b) AS c",
        f"SELECT * FROM {T}, LATERAL (SELECT 1) AS x",
        f"SELECT * FROM {T} NATURAL JOIN {T} AS b",
        f"SELECT * FROM ({T} AS a CROSS JOIN {T} AS b)",
        f"SELECT * FROM {T} AS a SEMI JOIN {T} AS b ON true",
        f"SELECT * FROM (VALUES (1)) AS x, {T}",
        f"SELECT * FROM generate_series(1, 1000000000), {T}",
        f"SELECT * FROM unnest(ARRAY[1]) AS u, {T}",
        f"SELECT * FROM pg_ls_dir('/'), {T}",
        f"SELECT * FROM ROWS FROM (pg_ls_dir('/')), {T}",
        f"SELECT * FROM dblink('host=x', 'SELECT 1') AS t(a int), {T}",
        f"SELECT * FROM json_to_recordset('[]') AS t(a int), {T}",
        f"SELECT * FROM now(), {T}",
    ],
    "functions": [
        f"SELECT {call} FROM {T}"
        for call in (
            "pg_sleep(10)",
            '"pg_sleep"(10)',
            "PG_SLEEP(10)",
            "pg_catalog.pg_sleep(10)",
            "pg_catalog.sum(aggregated_count)",
            '"pg_catalog"."pg_sleep"(10)',
            "pg_read_file('/etc/passwd')",
            "pg_read_binary_file('/etc/passwd')",
            "pg_ls_dir('/')",
            "pg_stat_file('/etc/passwd')",
            "set_config('statement_timeout', '0', false)",
            "current_setting('data_directory')",
            "lo_import('/etc/passwd')",
            "lo_export(1, '/tmp/x')",
            "lo_from_bytea(0, 'x')",
            "pg_advisory_lock(1)",
            "pg_terminate_backend(1)",
            "pg_cancel_backend(1)",
            "pg_reload_conf()",
            "pg_notify('x', 'y')",
            "dblink('host=x', 'SELECT 1')",
            "query_to_xml('SELECT * FROM pg_shadow', true, true, '')",
            "table_to_xml('pg_shadow', true, true, '')",
            "database_to_xml(true, true, '')",
            "xpath('/a', '<a/>')",
            "version()",
            "inet_server_addr()",
            "current_database()",
            "current_schema()",
            "current_user",
            "session_user",
            "user",
            "current_role",
            "current_catalog",
            "txid_current()",
            "pg_backend_pid()",
            "nextval('x')",
            "random()",
            "setseed(0.5)",
            "clock_timestamp()",
            "gen_random_uuid()",
            "has_table_privilege('pg_shadow', 'select')",
            "to_regclass('pg_shadow')",
            "pg_get_viewdef('rollups.file_download')",
            "repeat('x', 1000000000)",
            "lpad('x', 1000000000)",
            "rpad('x', 1000000000)",
            "array_fill(1, ARRAY[100000000])",
            "generate_series(1, 1000000000)",
            "string_agg(download_speed, ',')",
            "array_agg(download_speed)",
            "json_agg(download_speed)",
            "regexp_replace(download_speed, '(a*)*b', 'x')",
            "power(99999, 99999)",
            "aggregated_count ^ 99999",
            "factorial(100000)",
            "exp(99999)",
            "md5(download_speed)",
            "encode(sha256(''), 'hex')",
            "convert_from('x', 'utf8')",
            "to_char(timestamp, 'YYYY')",
            "to_timestamp('2024', 'YYYY')",
            "ifnull(download_speed, 'x')",
            "if(true, 1, 2)",
            "AGGREGATED_EVENTS('file_download')",
            "unknown_function(1)",
            "sum(aggregated_count, 1, 2)",
        )
    ],
    "types": [
        f"SELECT {cast} FROM {T}"
        for cast in (
            "'pg_shadow'::regclass",
            "CAST('pg_shadow' AS regclass)",
            "'pg_sleep'::regproc",
            "'postgres'::regrole",
            "1::oid",
            "'{}'::json",
            "'{}'::jsonb",
            "'<a/>'::xml",
            "'x'::bytea",
            "'{1}'::int[]",
            "'x'::my.type",
            "'x'::mytype",
            "'x'::\"char\"",
            "1::money",
            "1::double precision",
            "1::real",
            "1.5::float8",
            "'x'::name",
            "'127.0.0.1'::inet",
            "regclass 'pg_shadow'",
            "TRY_CAST('x' AS int)",
            "'x'::varchar(download_speed)",
            "1::numeric(1.5)",
            "1::numeric('2')",
        )
    ],
    "columns": [
        f"SELECT {column} FROM {T} AS d"
        for column in (
            "ctid",
            "xmin",
            "tableoid",
            "d.ctid",
            "revision",
            "tuple_key",
            "idempotency_key",
            "emitted_at",
            "final",
            "d",
            "d.*::text",
            "(d).revision",
            "(d.*).revision",
            "ROW(d.*)",
            "COUNT(d.*)",
            "COUNT(DISTINCT d.*)",
            "x.*",
            "d.nothing",
            "x.download_speed",
            "nothing",
            "* EXCEPT (revision)",
            "lower(*)",
        )
    ],
    "signs": [
        f"SELECT {text} FROM {T}"
        for text in (
            "$1",
            "$1::text",
            ":name",
            "?",
            "@x",
            "@@version",
            "%s",
            "%(name)s",
            "{x}",
            "{{ x }}",
            "{% x %}",
            "$$text$$",
            "$tag$text$tag$",
            "E'\\x27'",
            "U&'\\0027'",
            "N'x'",
            "B'01'",
            "X'1f'",
            "1_000",
            "1x",
            "0x1f",
            "download_speed ~ 'x'",
            "download_speed !~ 'x'",
            "download_speed SIMILAR TO 'x'",
            "download_speed -> 'x'",
            "download_speed ->> 'x'",
            "download_speed #> 'x'",
            "ARRAY[1]",
            "download_speed[1]",
            "1 & 2",
            "1 | 2",
            "1 # 2",
            "1 << 2",
            "|/ 4",
            "@ -4",
            "1 = ANY(ARRAY[1])",
            "1 OPERATOR(pg_catalog.+) 2",
            'download_speed COLLATE "C"',
            "(timestamp, timestamp) OVERLAPS (timestamp, timestamp)",
            "'open",
            '"open',
            "/* open",
            '""',
            f'1 AS "{"x" * 64}"',
            "'a\0b'",
        )
    ],
    "units": [
        f"SELECT {text} FROM {T}"
        for text in (
            'EXTRACT("epoch FROM now()), pg_sleep(10), (1" FROM timestamp)',
            "EXTRACT('x' FROM timestamp)",
            "EXTRACT(nonsense FROM timestamp)",
            "date_trunc('day'', now()), pg_sleep(10), (''', timestamp)",
            "date_trunc(download_speed, timestamp)",
            "date_part('day) FROM x; --', timestamp)",
            "INTERVAL '1 day''; DROP TABLE x; --'",
            "INTERVAL '1 fortnight'",
            "INTERVAL download_speed",
            "INTERVAL '1 day 2'",
        )
    ],
    "structure": [
        f"SELECT FROM {T} WHERE timestamp IS NULL",
        f"SELECT CEIL() FROM {T}",
        f"SELECT * FROM SELECT * FROM {T}",
        f"SELECT (1 + SELECT COUNT(*) FROM {T})",
        f"('file_download') UNION ALL SELECT 1 FROM {T}",
        f"SELECT 1 FROM {T} UNION ALL ('x')",
        f"WITH x AS (1) SELECT 1 FROM {T}",
        f"SELECT 1 JOIN {T} USING (timestamp)",
        f"SELECT (FROM {T} AS) JOIN {T} AS b USING (timestamp)",
        f"SELECT 1 FROM ('x') AS d, {T}",
        f"SELECT COUNT(*) FROM {T} WHERE timestamp IN SELECT timestamp FROM {T}",
    ],
    "clauses": [
        f"SELECT COUNT(*) FROM {T} GROUP BY CUBE (timestamp, external_customer_id)",
        f"SELECT COUNT(*) FROM {T} GROUP BY ROLLUP (timestamp)",
        f"SELECT COUNT(*) FROM {T} GROUP BY GROUPING SETS ((timestamp), ())",
        f"SELECT COUNT(*) FROM {T} GROUP BY ALL",
        f"SELECT timestamp FROM {T} LIMIT ALL",
        f"SELECT timestamp FROM {T} FETCH FIRST 5 ROWS WITH TIES",
        f"SELECT timestamp FROM {T} QUALIFY ROW_NUMBER() OVER () = 1",
        f"SELECT timestamp FROM {T} AS d, {T} AS d",
        f"SELECT timestamp FROM {T}, {T}",
        f"SELECT timestamp FROM {T} AS a, {T} AS b",
        f"SELECT 1 FROM {T} AS a JOIN {T} AS b USING (nothing)",
        f"SELECT 1 FROM {T} AS a JOIN (SELECT 1 AS x FROM {T}) AS b USING (timestamp)",
        f"SELECT LAG(timestamp) IGNORE NULLS OVER (ORDER BY timestamp) FROM {T}",
        f"SELECT timestamp FROM {T} UNION ALL BY NAME SELECT timestamp FROM {T}",
        f"SELECT timestamp FROM {T} UNION SELECT timestamp FROM {T} ORDER BY download_speed",
        f"SELECT timestamp FROM {T} ORDER BY nothing",
        f"SELECT timestamp FROM {T} GROUP BY nothing",
    ],
}
CORPUS = [(kind, attack) for kind, attacks in ATTACKS.items() for attack in attacks]


@pytest.mark.parametrize(("kind", "attack"), CORPUS)
def test_corpus(kind: str, attack: str) -> None:
    with pytest.raises(MetricError) as refused:
        rewrite(attack, CATALOG, customer=CUSTOMER)
    error = refused.value
    placeless = "names no output" in error.message or "empty" in error.message or "reads no rollup" in error.message
    assert placeless or (error.line is not None and error.column is not None), error
    assert "<class" not in str(error)
    assert "Token" not in str(error)


def test_corpus_is_large() -> None:
    assert len({attack for _, attack in CORPUS}) >= 150


@pytest.mark.parametrize(
    "metric",
    [
        f"SELECT COUNT(*) FROM {T}" + " " * SQL_CHARACTERS_MAX,
        f"SELECT {'1,' * (TOKENS_MAX // 2)} 1 FROM {T}",
        f"SELECT {'(' * (NESTING_MAX + 1)}1{')' * (NESTING_MAX + 1)} FROM {T}",
        f"SELECT {'decimal(' * 20}1{')' * 20} FROM {T}",
        f"SELECT {'NOT ' * 1000} TRUE FROM {T}",
        f"SELECT {'- ' * 1500} 1 FROM {T}",
        f"SELECT COUNT(*) FROM {T} AS a" + f" JOIN {T} AS a" * (JOINS_MAX + 1),
        f"SELECT COUNT(*) FROM {T} AS a" + "".join(f", {T} AS a{n}" for n in range(SCANS_MAX)),
        " UNION ALL ".join([f"SELECT 1 FROM {T}"] * 400),
        f"SELECT {'CASE WHEN TRUE THEN ' * 400} 1 {'END ' * 400} FROM {T}",
    ],
    ids=lambda metric: metric[:40],
)
def test_too_large(metric: str) -> None:
    with pytest.raises(MetricError, match=r"at most|nested too deeply"):
        rewrite(metric, CATALOG)


VOCABULARY = """
SELECT FROM WHERE GROUP BY ORDER HAVING LIMIT OFFSET UNION ALL EXCEPT INTERSECT WITH x AS DISTINCT ON JOIN LEFT CROSS
USING NATURAL LATERAL CASE WHEN THEN ELSE END AND OR NOT IN IS NULL LIKE BETWEEN EXISTS ( ) ( ) , , . * + - / % = <> <
>= || :: ; 'text' "name" 1 2.5 1e3 timestamp count external_customer_id download_speed d events event_name SUM COUNT(*)
AGGREGATED_EVENTS('file_download') 'file_download_aggregated' MAX OVER PARTITION FILTER INTERVAL '1day' '1' DAY DATE
date_trunc('day' EXTRACT(day numeric text CAST WINDOW ROWS UNBOUNDED PRECEDING RECURSIVE MATERIALIZED VALUES ROW ARRAY
INTO FOR UPDATE pg_sleep( $1 ? [ ] { } @ ^ ~ -- /* */ E'x' U&'x' ASC DESC NULLS
"""
WORDS = st.sampled_from(VOCABULARY.split())


@given(st.lists(WORDS, max_size=40))
@example(["SELECT", "*", "FROM", "AGGREGATED_EVENTS('file_download')"])
def test_any_words_are_refused_or_confined(words: list[str]) -> None:
    """No text makes the rewriter fail in another way, and what it accepts reads rollups alone, one customer's."""
    metric = " ".join(words)
    try:
        rewritten = rewrite(metric, CATALOG, customer=CUSTOMER)
    except MetricError:
        return
    assert rewritten.params == [CUSTOMER]
    scans = rewritten.sql.count('FROM "rollups"."file_download_aggregated"\n')
    assert scans >= 1
    assert rewritten.sql.count('"external_customer_id" = $1') == scans


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15)


@given(text=TEXT, name=NAME)
@example(text="'; DROP TABLE x; --", name='"; DROP TABLE x; --')
@example(text="\\'", name="\\")
@example(text="$1 $$ /* -- */ %s :x {x}", name="$1")
@example(text="__SQLGLOT__LB__\n", name="\n\t")
def test_text_and_names_come_back_as_they_are(text: str, name: str, fixed: Database) -> None:
    literal, quoted = text.replace("'", "''"), name.replace('"', '""')
    result = fixed.metric(f"SELECT '{literal}' AS \"{quoted}\", COUNT(*) FROM {T} WHERE '{literal}' <> download_speed")
    assert result.columns[0] == name
    assert result.rows[0][0] == text


def test_another_customers_rows_stay_out_of_reach(fixed: Database) -> None:
    """The system's customer holds in every scan, whatever the metric puts beside it."""
    attempts = [
        f"SELECT external_customer_id FROM {T} WHERE external_customer_id = 'globex'",
        f"SELECT external_customer_id FROM {T} WHERE TRUE OR external_customer_id = 'globex'",
        f"SELECT external_customer_id FROM {T} WHERE external_customer_id IN ('globex', 'initech', 'acme')",
        f"SELECT external_customer_id FROM {T} AS a UNION ALL SELECT external_customer_id FROM {T} AS b",
        f"SELECT b.external_customer_id FROM {T} AS a FULL JOIN {T} AS b ON FALSE WHERE b.timestamp IS NOT NULL",
        f"SELECT (SELECT MAX(b.external_customer_id) FROM {T} AS b) FROM {T} AS a",
        f"WITH d AS (SELECT * FROM {T}) SELECT d.external_customer_id FROM d, {T} AS a",
        (
            "SELECT external_customer_id FROM events WHERE event_name = 'file_download_aggregated'"
            " GROUP BY timestamp, external_customer_id, download_speed, data_clusterid"
        ),
    ]
    for attempt in attempts:
        everyone = fixed.metric(attempt)
        mine = fixed.metric(attempt, restricted=True)
        assert {row[0] for row in mine.rows} <= {CUSTOMER}, attempt
        assert {row[0] for row in everyone.rows} - {CUSTOMER}, attempt
