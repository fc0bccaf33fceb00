"""docs/producing.md shows the examples as they are."""

import json
import re

import pytest

from tests.producers.running import EXAMPLES, ROOT, event_of, recount

PAGE = (ROOT / "docs" / "producing.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^<!-- (examples/\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MUST_BE_SHOWN = [
    *(path for path in (EXAMPLES / "producers").glob("*.*") if path.suffix in (".py", ".mjs", ".sh")),
    *(EXAMPLES / "producers" / "rollups").glob("*.yaml"),
]


@pytest.mark.parametrize(("path", "text"), SHOWN, ids=[path for path, _ in SHOWN])
def test_the_page_shows_the_code_that_runs(path: str, text: str) -> None:
    assert text == (ROOT / path).read_text(encoding="utf-8"), f"copy {path} into docs/producing.md, below its name"


def test_every_example_is_on_the_page() -> None:
    names = {str(path.relative_to(ROOT)) for path in MUST_BE_SHOWN}
    assert names <= {path for path, _ in SHOWN}


def test_the_calls_and_the_events_are_the_same() -> None:
    calls, events = (
        [json.loads(line) for line in (EXAMPLES / "producers" / name).read_text(encoding="utf-8").splitlines()]
        for name in ("calls.ndjson", "events.ndjson")
    )
    assert [event_of(call) for call in calls] == events


def test_what_the_page_says_they_come_to() -> None:
    lines = (EXAMPLES / "producers" / "calls.ndjson").read_text(encoding="utf-8").splitlines()
    found = recount([json.loads(line) for line in lines])
    count, tokens = (sum(column) for column in zip(*found.values(), strict=True))
    assert f"has {len(lines)} lines: {count} calls" in PAGE
    assert f"The answer is {count} calls and {tokens:,} tokens" in PAGE
