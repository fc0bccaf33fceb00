"""Every reason that a dead letter can have is in the operators' page, and every one there can be had."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rollup_engine import ports

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "dead-letters.md").read_text(encoding="utf-8")


def _calls(file: Path, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def _route_reasons() -> set[str]:
    """First arguments of `Undecodable`; an f-string stands for one reason per kind of text column."""
    files = sorted((ROOT / "rollup_engine" / "route").glob("*.py"))
    columns = [call for file in files for call in _calls(file, "_text") if len(call.args) == 4]
    whats = {ast.literal_eval(call.args[2]).replace(" ", "_"): bool(call.keywords) for call in columns}
    reasons = set(ports.UNREADABLE_REASONS)
    for call in (call for file in files for call in _calls(file, "Undecodable")):
        reason = call.args[0]
        if isinstance(reason, ast.Name):
            reasons.add(getattr(ports, reason.id))
        elif isinstance(reason, ast.Attribute):  # the reason of an `Unreadable`
            assert ast.unparse(reason) == "record.reason"
        elif isinstance(reason, ast.JoinedStr):
            prefix = ast.literal_eval(reason.values[0])
            reasons |= {prefix + what for what, required in whats.items() if required or prefix != "missing_"}
        else:
            reasons.add(ast.literal_eval(reason))
    return reasons


def _dedup_reasons() -> set[str]:
    text = (ROOT / "rollup_engine" / "dedup" / "letters.py").read_text(encoding="utf-8")
    return set(re.findall(r'^\s+reason = "(\w+)"$', text, re.MULTILINE))


def test_the_reasons_are_found_in_the_code() -> None:
    assert {"malformed_json", "below_minimum", "missing_id", "invalid_group_column"} <= _route_reasons()
    assert "missing_group_column" not in _route_reasons()
    assert _dedup_reasons() == {"late", "conflict", "future_timestamp"}


def test_a_bucket_gives_every_reason_of_its_own() -> None:
    """By its text, or by the constant that both sides see; what is too large, route's decoder says for both."""
    package = ROOT / "rollup_engine"
    files = [package / "route" / "decode.py", *sorted((package / "buckets").glob("*.py"))]
    used = {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))}
    assert {reason for reason in ports.UNREADABLE_REASONS if not {reason, reason.upper()} & used} == set()


def test_every_reason_is_in_the_page_and_none_else() -> None:
    table = PAGE.split("## What each reason means")[1].split("\n## ")[0]
    documented = {
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"\w+", row)
    }
    assert documented == _route_reasons() | _dedup_reasons()
