"""Every rule of the rollup YAML: one change to a good file, and exactly the problems it must cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollup_engine.config.loader import check

GOOD = """\
event: file_download
source:
  topic: downloads
  match: {event_name: download}
fields:
  id: id
  timestamp: download_timestamp
  external_customer_id: customer
rollups:
  - name: downloads
    group_by: [download_speed]
    aggregates:
      - {sum: bytes_downloaded, minimum: 0}
    window: 10m
    emit_every: 30s
grace_period: 12h
dedup_horizon: 24h
max_future: 5m
"""
LONG = "a_very_long_property_name_that_never_ends"
EMPTY = "1: this file is empty. Write at least the keys event, source, fields and rollups, or remove the file."

Case = tuple[str, str, list[str]]
"""What is replaced in GOOD, by what, and the lines reported."""

GENERATED: dict[str, Case] = {
    "long text": (
        "event: file_download",
        f"event: {'x' * 256}",
        ["1: 'event' is longer than 255 characters. Write a shorter one."],
    ),
    "deep path": (
        "  id: id",
        f"  id: {'.'.join('x' * 33)}",
        ["6: 'id' is more than 32 levels deep. Write a shorter path."],
    ),
    "long minimum": (
        "minimum: 0",
        f"minimum: {'9' * 39}",
        [f"13: 'minimum' has too many digits: '{'9' * 39}'. Write at most 38 digits, 18 of them after the point."],
    ),
    "colliding only when cut": (
        "group_by: [download_speed]",
        f"group_by: [{LONG}_a, {LONG}_b]",
        [
            (
                f"11: '{LONG}_b' becomes column '{LONG[:40]}', that of '{LONG}_a' on line 11. "
                f"Write {{path: {LONG}_b, as: {LONG[:34]}_2}} instead."
            )
        ],
    ),
    "deep nesting": (
        "max_future: 5m",
        f"max_future: {'[' * 5_000}",
        ["18: more than 32 levels of nesting. The format has four; remove the others."],
    ),
    "control character": ("12h", "12h\a", ["16: the character U+0007 is not allowed in YAML. Remove it."]),
    "comments only": (GOOD, "# later\n", [EMPTY]),
    "empty file": (GOOD, "", [EMPTY]),
    "empty document": (GOOD, "---\n", [EMPTY]),
    "a list": (
        GOOD,
        "- a\n",
        ["1: the file must be a mapping of keys to values, not a list. Write the keys event, source, fields, rollups."],
    ),
}


def written_cases() -> dict[str, Case]:
    """The cases of bad_yaml.txt."""
    cases: dict[str, Case] = {}
    for block in Path(__file__).with_name("bad_yaml.txt").read_text().split("\n\n"):
        title, *lines = [line for line in block.splitlines() if line.strip()]
        if not lines or not lines[-1].startswith("> "):
            continue
        old, new, expected = ([line[1:] for line in lines if line[0] == mark] for mark in "-+>")
        end = "" if new else "\n"
        cases[title.removeprefix("# ")] = ("\n".join(old) + end, "\n".join(new), [line[1:] for line in expected])
    return cases


CASES = GENERATED | written_cases()


@pytest.fixture
def rollups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory `rollups`, relative to the working directory, as in messages."""
    monkeypatch.chdir(tmp_path)
    Path("rollups").mkdir()
    return Path("rollups")


def report(paths: list[Path]) -> list[str]:
    config, problems = check(paths)
    assert (config is None) == bool(problems)
    return [str(problem) for problem in problems]


def test_the_file_all_cases_start_from_is_good(rollups: Path) -> None:
    (rollups / "x.yaml").write_text(GOOD)
    assert report([rollups]) == []


@pytest.mark.parametrize("case", CASES)
def test_one_change_causes_exactly_these_problems(case: str, rollups: Path) -> None:
    old, new, expected = CASES[case]
    assert GOOD.count(old) == 1, "a case changes one place"
    assert expected
    (rollups / "x.yaml").write_text(GOOD.replace(old, new))
    assert report([rollups]) == [f"rollups/x.yaml:{line}" for line in expected]


def test_columns_count_from_one(rollups: Path) -> None:
    (rollups / "x.yaml").write_text(GOOD.replace("group_by: [download_speed]", "group_by: [a, 3]"))
    _, [problem] = check([rollups])
    assert (problem.file, problem.line, problem.column) == ("rollups/x.yaml", 11, 19)


def test_every_problem_of_every_file_is_reported_at_once_in_order(rollups: Path) -> None:
    (rollups / "b.yaml").write_text(GOOD.replace("10m", "7m").replace("event:", "evnt:").replace("5m", "5 m"))
    (rollups / "a.yml").write_text("event: [\n")
    (rollups / "c.yaml").write_text(GOOD.replace("event: file_download", "event: 1").replace("name: downloads", ""))
    assert [line.partition(".")[0] + ":" + line.split(":")[1] for line in report([rollups])] == [
        "rollups/a:2",
        "rollups/b:1",
        "rollups/b:14",
        "rollups/b:18",
        "rollups/c:1",
    ]


def test_two_files_with_the_same_event_are_one_problem(rollups: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (rollups / name).write_text(GOOD.replace("  - name: downloads\n    group_by", "  - group_by"))
    assert report([rollups]) == [
        (
            "rollups/b.yaml:1: event 'file_download' is already declared in rollups/a.yaml:1. "
            "Keep one file per event type: merge the two, or rename this one."
        )
    ]


def test_a_rollup_name_is_taken_across_files(rollups: Path) -> None:
    (rollups / "a.yaml").write_text(GOOD)
    (rollups / "b.yaml").write_text(GOOD.replace("file_download", "other"))
    assert report([rollups]) == [
        "rollups/b.yaml:10: rollup 'downloads' is already declared in rollups/a.yaml:10. Give this one another 'name:'."
    ]


def test_a_table_is_taken_across_files(rollups: Path) -> None:
    (rollups / "a.yaml").write_text(GOOD)
    (rollups / "b.yaml").write_text(
        GOOD.replace("file_download", "other").replace("name: downloads", "name: Downloads")
    )
    assert report([rollups]) == [
        (
            "rollups/b.yaml:10: rollup 'Downloads' claims rollups.downloads, "
            "which rollup 'downloads' in rollups/a.yaml:10 already has. Give this one another 'name:'."
        )
    ]


def test_files_and_directories_that_are_not_there(rollups: Path) -> None:
    assert report([rollups]) == [
        (
            "rollups: no *.yaml or *.yml file in this directory. "
            "Create one per event type, such as rollups/file_download.yaml."
        )
    ]
    assert report([Path("nowhere")]) == [
        (
            "nowhere: no such directory. "
            "Create it and put a YAML file per event type into it, such as nowhere/file_download.yaml."
        )
    ]
    assert report([Path("x.yaml")]) == ["x.yaml: no such file. Check the path."]
    assert report([]) == ["no configuration to check. Name a file or a directory."]


def test_files_that_cannot_be_read(rollups: Path) -> None:
    (rollups / "a.yaml").write_bytes(b"event: a\nsource: \xff\n")
    (rollups / "b.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    (rollups / "c.yaml").symlink_to("c.yaml")
    assert report([rollups]) == [
        "rollups/a.yaml:2: this line is not UTF-8 text. Save the file as UTF-8.",
        "rollups/b.yaml: this file is larger than 1 MiB. Is it a rollup YAML?",
        "rollups/c.yaml: this cannot be read (too many levels of symbolic links). Check the path and its permissions.",
    ]
