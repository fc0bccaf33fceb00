"""The metric catalogue's YAML: what it says, and every way in which it can be wrong, with its place."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from billable_metrics.metric import Metric, tables_read
from billable_metrics.metric_files import RESERVED, check_metrics, is_metric_file, load_metrics
from billable_metrics.parameters import Parameter, Value, bound, parse_value, parse_values, written
from rollup_engine.config.settings import Settings
from rollup_engine.errors import ConfigError, MetricError
from rollup_engine.runtime.validation import validate
from tests.metrics.support import CATALOG

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
name: big_downloads
description: >
  Downloads in windows
  of some size.
unit: downloads
sql: |
  SELECT SUM(aggregated_count)
  FROM AGGREGATED_EVENTS('file_download')
  WHERE sum_bytes >= :least AND download_speed = :speed AND timestamp < :until AND (:all OR aggregated_count > 1)
parameters:
  least: {type: number, default: 0.5, description: The least bytes.}
  speed: {type: text, default: 'no'}
  until: {type: timestamp, default: 2024-04-01T02:00:00+02:00}
  all: {type: boolean}
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return directory


def metric_yaml(sql: str, name: str = "tried", more: str = "") -> str:
    block = "\n".join(f"  {line}" for line in sql.split("\n"))
    return f"name: {name}\ndescription: d\nunit: u\nsql: |\n{block}\n{more}"


def problems(directory: Path) -> list[str]:
    """What loading, or else checking, says about a directory's files, each without the directory."""
    try:
        found = list(map(str, check_metrics(load_metrics(directory), CATALOG)))
    except ConfigError as error:
        found = list(map(str, error.problems))
    return [text.replace(f"{directory}/", "") for text in found]


def test_a_good_one(tmp_path: Path) -> None:
    (metric,) = load_metrics(write(tmp_path, good=GOOD)).values()
    assert (metric.name, metric.unit, metric.line) == ("big_downloads", "downloads", 1)
    assert metric.description == "Downloads in windows of some size."
    assert metric.sql.startswith("SELECT SUM(aggregated_count)\nFROM")
    assert metric.sql.endswith("> 1)")
    assert [table.name for table in tables_read(metric, CATALOG)] == ["file_download"]
    assert metric.parameters == {
        "least": Parameter("least", "number", Decimal("0.5"), "The least bytes."),
        "speed": Parameter("speed", "text", "no"),
        "until": Parameter("until", "timestamp", datetime(2024, 4, 1, tzinfo=UTC)),
        "all": Parameter("all", "boolean"),
    }
    assert [parameter.required for parameter in metric.parameters.values()] == [False, False, False, True]
    assert problems(tmp_path) == []


def test_a_directory_that_is_not_there_holds_none(tmp_path: Path) -> None:
    assert load_metrics(tmp_path / "metrics") == {}


def test_metrics_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    sql = "SELECT COUNT(*) FROM AGGREGATED_EVENTS('API_REQUEST')"
    write(tmp_path, a=metric_yaml(sql, "zz"), b=metric_yaml(sql, "aa"))
    assert list(load_metrics(tmp_path)) == ["aa", "zz"]


SUM = "SELECT SUM(aggregated_count) FROM AGGREGATED_EVENTS('file_download')"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["it.yaml:1: this file is empty. Write the keys name, description, unit, sql, or remove the file."]),
        (
            "just text",
            [
                (
                    "it.yaml:1: the file must be a mapping of keys to values, not the text 'just text'."
                    " Write the keys name, description, unit, sql."
                )
            ],
        ),
        (
            "name: a\ndescripton: b\nsql: SELECT 1\nevent: x\n",
            [
                "it.yaml:1: missing key 'unit' in the file. Add 'unit: downloads'.",
                "it.yaml:2: unknown key 'descripton'. Write 'description' instead.",
                "it.yaml:4: unknown key 'event'. The keys here are name, description, unit, sql, parameters.",
            ],
        ),
        (
            "name: Big-Ones\ndescription: [a]\nunit: 12\nsql:\n",
            [
                (
                    "it.yaml:1: 'name' cannot be 'Big-Ones'."
                    " Write 1 to 60 of the characters a-z, 0-9 and _, the first a letter."
                ),
                "it.yaml:2: 'description' must be text, not a list. Write a sentence on what is counted.",
                "it.yaml:3: 'unit' must be text, not the number 12. Quote it: '12'.",
                "it.yaml:4: 'sql' has no value. Write one SELECT statement.",
            ],
        ),
        (
            f'name: a\ndescription: "\\a"\nunit: u\nsql: "{" " * 9}"\n',
            [
                "it.yaml:2: 'description' holds the character U+0007. Remove it.",
                "it.yaml:4: 'sql' is empty. Write one SELECT statement.",
            ],
        ),
        (
            metric_yaml(SUM, more="parameters:\n  Least: {type: numbr}\n  a: {}\n  b: 1\n  c: {type: text, unit: u}\n"),
            [
                (
                    "it.yaml:7: a parameter cannot be called 'Least'."
                    " Write 1 to 60 of the characters a-z, 0-9 and _, the first a letter."
                ),
                "it.yaml:7: 'type' cannot be 'numbr'. Write number instead.",
                "it.yaml:8: missing key 'type' in 'a'. Add 'type: number'.",
                "it.yaml:9: 'b' must be a mapping of keys to values, not the number 1. Write {type: number}.",
                "it.yaml:10: unknown key 'unit'. It belongs in the top level of the file.",
            ],
        ),
        (
            metric_yaml(
                SUM,
                more="parameters:\n  a: {type: number, default: 1e3}\n  b: {type: boolean, default: 'true'}\n"
                "  c: {type: timestamp, default: 2024-03-14}\n  d: {type: text, default: no}\n"
                "  e: {type: text, default: 12}\n  f: {type: number, default: [1]}\n",
            ),
            [
                "it.yaml:7: 'default' is no number: '1e3'. Write digits, such as 0 or 0.01.",
                "it.yaml:8: 'default' must be a boolean, not the text 'true'. Write a boolean, or leave it out.",
                (
                    "it.yaml:9: 'default' is no time with an offset: '2024-03-14'."
                    " Write 2024-03-14T00:00:00Z, or another offset than Z."
                ),
                "it.yaml:11: 'default' must be text, not the number 12. Quote it: '12'.",
                "it.yaml:12: 'default' must be a number, not a list. Write a number, or leave it out.",
            ],
        ),
        (
            metric_yaml(SUM, more="parameters: {limit: {type: number}}\n"),
            [
                (
                    "it.yaml:6: a parameter cannot be called 'limit'. Choose another name: this one is what a request"
                    " for usage calls a part of its own."
                )
            ],
        ),
        (
            metric_yaml(SUM, more="parameters: {least: {type: number}}\n"),
            ["it.yaml:1: the parameter 'least' is not used. Write :least in 'sql'."],
        ),
        ("name: [", ["it.yaml:1: this is not valid YAML (expected the node content, but found '<stream end>')."]),
    ],
)
def test_what_is_wrong_is_said_with_its_line_all_at_once(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = problems(write(tmp_path, it=text))
    assert len(found) == len(expected)
    for said, wanted in zip(found, expected, strict=True):
        assert said.startswith(wanted)


@pytest.mark.parametrize(
    ("sql", "line", "column", "says"),
    [
        (
            "SELECT\n  SUM(agregated_count)\nFROM AGGREGATED_EVENTS('file_download')",
            6,
            9,
            "no column 'agregated_count'",
        ),
        (
            "SELECT SUM(aggregated_count)\nFROM AGGREGATED_EVENTS('file_downlod')",
            6,
            26,
            "did you mean 'file_download'?",
        ),
        (f"{SUM} WHERE sum_bytes > :lest", 5, 90, "there is no parameter 'lest'"),
        ("SELECT pg_sleep(1)\nFROM AGGREGATED_EVENTS('file_download')", 5, 10, "pg_sleep"),
        (f"{SUM}\n\nGROUP BY download_speed", 7, 12, "GROUP BY gives one a group"),
        (SUM.replace("SUM(aggregated_count)", "SUM(aggregated_count),\n 2"), 6, 4, "this is a second column"),
        (SUM.replace("SUM(aggregated_count)", "*"), 5, None, "in place of *"),
        (SUM.replace("SUM(aggregated_count)", "aggregated_count"), 5, 10, "this gives one a row; aggregate it"),
        (SUM.replace("SUM(aggregated_count)", "SUM(aggregated_count) OVER ()"), 5, 10, "this gives one a row"),
        (SUM.replace("SUM(aggregated_count)", "aggregated_count") + " LIMIT 2", 5, 10, "this gives one a row"),
        (f"WITH w AS ({SUM} GROUP BY download_speed) SELECT 1 FROM w", 5, 115, "this gives one a row"),
        (f"WITH w AS ({SUM}) SELECT 1 FROM w, AGGREGATED_EVENTS('API_REQUEST')", 5, 91, "this gives one a row"),
        (f"{SUM}\nUNION ALL\n{SUM}", 5, 10, "joins the rows of several SELECTs"),
        ("INSERT INTO x VALUES (1)", 5, 3, "INSERT"),
    ],
)
def test_sql_that_gives_no_one_number(tmp_path: Path, sql: str, line: int, column: int | None, says: str) -> None:
    (found,) = check_metrics(load_metrics(write(tmp_path, it=metric_yaml(sql))), CATALOG)
    assert found.file == str(tmp_path / "it.yaml")
    assert says in found.message
    assert found.line == line
    if column is not None:
        assert found.column == column


@pytest.mark.parametrize(
    "sql",
    [
        SUM,
        f"({SUM})",
        "SELECT SUM(SUM(aggregated_count)) OVER () FROM AGGREGATED_EVENTS('file_download')",
        "SELECT SUM(aggregated_count) FILTER (WHERE download_speed = 'x') FROM AGGREGATED_EVENTS('file_download')",
        "SELECT LATEST_BY(aggregated_count, timestamp) FROM AGGREGATED_EVENTS('file_download')",
        "SELECT aggregated_count FROM AGGREGATED_EVENTS('file_download') ORDER BY timestamp DESC LIMIT 1",
        f"SELECT ({SUM}) / 2",
        f"WITH w AS ({SUM.replace('count)', 'count) AS n')}), v AS (SELECT n * 2 AS m FROM w) SELECT n + m FROM w, v",
        f"SELECT n + 1 FROM ({SUM.replace('count)', 'count) AS n')}) AS w",
        (
            "WITH w AS (SELECT download_speed AS s, COUNT(*) AS n FROM AGGREGATED_EVENTS('file_download') GROUP BY s)"
            " SELECT MAX(n) FROM w"
        ),
    ],
)
def test_sql_that_gives_one_number(tmp_path: Path, sql: str) -> None:
    assert problems(write(tmp_path, it=metric_yaml(sql))) == []


@pytest.mark.parametrize(
    ("written_as", "line", "column"),
    [
        ("sql: |\n\n    SELECT bad\n    FROM AGGREGATED_EVENTS('API_REQUEST')\n", 6, 12),
        ("sql: |2-\n    SELECT bad\n    FROM AGGREGATED_EVENTS('API_REQUEST')\n", 5, 12),
        ("sql: SELECT bad FROM AGGREGATED_EVENTS('API_REQUEST')\n", 4, 13),
        ("sql: \"SELECT bad FROM AGGREGATED_EVENTS('API_REQUEST')\"\n", 4, 14),
        ("sql:\n  SELECT bad\n  FROM AGGREGATED_EVENTS('API_REQUEST')\n", 5, None),
        ("sql: >\n  SELECT bad\n  FROM AGGREGATED_EVENTS('API_REQUEST')\n", 4, None),
    ],
)
def test_the_place_in_the_file_however_the_sql_is_written(
    tmp_path: Path, written_as: str, line: int, column: int | None
) -> None:
    write(tmp_path, it=f"name: a\ndescription: d\nunit: u\n{written_as}")
    (found,) = check_metrics(load_metrics(tmp_path), CATALOG)
    assert "there is no column 'bad'" in found.message
    assert (found.line, found.column) == (line, column)


def test_a_name_that_two_files_take(tmp_path: Path) -> None:
    write(tmp_path, a=metric_yaml(SUM), b=metric_yaml(SUM, more="# later\n"))
    (found,) = problems(tmp_path)
    assert found.startswith("b.yaml:1: the metric 'tried' is declared twice, first in ")
    assert found.endswith("a.yaml:1. Rename or remove one of them.")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "latin.yaml").write_bytes(b"name: x\n# \xe4\n")
    assert problems(tmp_path) == [
        "gone.yaml: no such file. Check the path.",
        "latin.yaml:2: this line is not UTF-8 text. Save the file as UTF-8.",
    ]


class TestValues:
    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [
            ("number", "12", Decimal(12)),
            ("number", "-0.50", Decimal("-0.50")),
            ("number", "9" * 60, Decimal("9" * 60)),
            ("text", "", ""),
            ("text", "'; DROP TABLE x --", "'; DROP TABLE x --"),
            ("boolean", "TRUE", True),
            ("timestamp", "2024-03-14T10:00:00.25+05:45", datetime(2024, 3, 14, 4, 15, 0, 250_000, tzinfo=UTC)),
        ],
    )
    def test_text_becomes_a_value_and_text_again(self, kind: str, text: str, value: Value) -> None:
        parsed = parse_value(kind, text, "'x'")  # type: ignore[arg-type]
        assert parsed == value
        assert type(parsed) is type(value)
        assert parse_value(kind, written(parsed), "'x'") == value  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("kind", "text", "says"),
        [
            ("number", "1e3", "'x' is no number: '1e3'; write digits, such as 0 or 0.01"),
            ("number", "NaN", "is no number"),
            ("number", "١", "is no number"),
            ("number", "", "is no number"),
            ("number", "9" * 61, "'x' has more than 60 digits"),
            ("boolean", "1", "'x' is no boolean: '1'; write true or false"),
            ("text", "a\0", "'x' holds the character U+0000"),
            ("text", "\ud800", "'x' holds the character U+D800"),
            ("text", "a" * 1001, "'x' is longer than 1000 characters"),
            ("timestamp", "2024-03-14T10:00:00", "write its offset too, such as 2024-03-14T10:00:00Z"),
            ("timestamp", "2024-03-14T10:00:00 02:00", "in a URL the + of an offset is written %2B"),
            ("timestamp", "2024-02-30T10:00:00Z", "'x' is no time that exists"),
            ("timestamp", "now", "write it as in 2024-03-14T10:00:00Z"),
        ],
    )
    def test_text_that_is_no_value(self, kind: str, text: str, says: str) -> None:
        with pytest.raises(MetricError) as refused:
            parse_value(kind, text, "'x'")  # type: ignore[arg-type]
        assert says in str(refused.value)

    def test_every_parameter_gets_a_value(self) -> None:
        parameters = {"a": Parameter("a", "number"), "b": Parameter("b", "text", "x")}
        values = parse_values(parameters, {"a": "1"})
        assert bound(parameters, values) == {"a": ("NUMERIC", Decimal(1)), "b": ("TEXT", "x")}
        with pytest.raises(MetricError, match="the parameter 'a' has no value; give digits"):
            parse_values(parameters, {"b": "y"})
        with pytest.raises(MetricError, match="there is no parameter 'c'; those there are: a, b"):
            parse_values(parameters, {"a": "1", "c": "1"})
        with pytest.raises(MetricError, match="the metric takes none"):
            parse_values({}, {"a": "1"})


class TestValidate:
    EXAMPLES = ROOT / "examples" / "orb"

    def test_the_examples(self) -> None:
        for example in ("orb", "access_log"):
            directory = ROOT / "examples" / example
            found = validate([directory / "metrics", directory / "rollups"], Settings())
            assert found.metrics >= 2
            assert found.rollups == 1

    def test_a_metrics_directory_is_checked_against_the_rollups(self, tmp_path: Path) -> None:
        write(tmp_path, it=metric_yaml(f"{SUM} WHERE\n  download_sped = 'fast'"))
        (tmp_path / "other.sql").write_text("SELECT COUNT(*) FROM AGGREGATED_EVENTS('upload')")
        for settings, paths in (
            (Settings(config_dir=self.EXAMPLES / "rollups", metrics_dir=tmp_path), None),
            (Settings(), [tmp_path, self.EXAMPLES / "rollups"]),
        ):
            with pytest.raises(ConfigError) as refused:
                validate(paths, settings)
            first, second = refused.value.problems
            assert (first.file, first.line) == (str(tmp_path / "it.yaml"), 6)
            assert "did you mean download_speed?" in first.message
            assert second.file == str(tmp_path / "other.sql")

    def test_a_metrics_directory_that_was_named_has_to_be_there(self, tmp_path: Path) -> None:
        settings = Settings(config_dir=self.EXAMPLES / "rollups", metrics_dir=tmp_path / "gone")
        with pytest.raises(ConfigError, match="gone: no such directory"):
            validate(None, settings)

    def test_files_are_told_apart_by_their_keys(self, tmp_path: Path) -> None:
        write(tmp_path, metric="name: a\nsql: x\n", rollup="event: a\nname: b\nsource: c\n", broken="{")
        kinds = {path.stem: is_metric_file(path) for path in tmp_path.iterdir()}
        assert kinds == {"metric": True, "rollup": False, "broken": False}


def test_reads_clock() -> None:
    assert Metric("a", "", "", f"{SUM} WHERE timestamp < NOW()").reads_clock
    assert not Metric("a", "", "", SUM).reads_clock


def test_no_parameter_has_the_name_of_a_part_of_a_request() -> None:
    metrics = pytest.importorskip("rollup_engine.api.metrics")
    assert metrics.FIXED == RESERVED
