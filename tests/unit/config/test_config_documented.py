"""The page about the YAML: all its keys, the defaults it tells, and an example that is good as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rollup_engine.config.draft import BELONGS
from rollup_engine.config.loader import load
from rollup_engine.config.model import Config

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "rollup-yaml.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.split("```yaml\n")[1].split("```")[0]
DEFAULTS = [line for line in EXAMPLE.splitlines() if re.search("# default[:;]|# default$", line)]


def loaded(directory: Path, text: str) -> Config:
    (directory / "x.yaml").write_text(text)
    return load(directory)


def test_every_key_is_told() -> None:
    assert BELONGS.keys() <= set(re.findall(r"\w+", EXAMPLE))


@pytest.mark.parametrize(
    "line", [line for line in DEFAULTS if "default: " not in line], ids=lambda line: line.split()[0]
)
def test_what_is_told_as_a_default_is_one(line: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, EXAMPLE.replace(f"{line}\n", "")) == loaded(tmp_path, EXAMPLE)


def test_the_defaults_are_found() -> None:
    assert {line.split(":")[0].strip() for line in DEFAULTS if "default: " not in line} == {
        *("poll", "window", "emit_every", "grace_period", "dedup_horizon", "max_future")
    }


def test_the_name_is_the_events_by_default(tmp_path: Path) -> None:
    named = next(line for line in EXAMPLE.splitlines() if line.startswith("  - name: "))
    assert loaded(tmp_path, EXAMPLE.replace(f"{named}\n    group_by:", "  - group_by:")) == loaded(tmp_path, EXAMPLE)
