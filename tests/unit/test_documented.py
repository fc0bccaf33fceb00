"""What a person can set or type is documented, and what is documented can be set or typed."""

import re
from pathlib import Path

import typer

from rollup_engine import cli
from rollup_engine.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme() -> None:
    named = set(re.findall(r"ROLLUP_([A-Z_]+)", README))
    for group, rest in re.findall(r"`(ROLLUP_KAFKA_(?:SASL|SSL)_)[A-Z]+`((?:, `…_[A-Z]+`)+)", README):
        named |= {group.removeprefix("ROLLUP_") + name for name in re.findall(r"…_([A-Z]+)", rest)}
    assert {name.upper() for name in Settings.model_fields} == named


def _commands() -> set[str]:
    group = typer.main.get_command(cli.app)
    names = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        names |= {f"{name} {sub}" for sub in command.commands} if hasattr(command, "commands") else {name}
    return names


def test_every_command_is_in_the_readme_or_changelog() -> None:
    text = README + (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for command in _commands():
        first, _, second = command.partition(" ")
        assert first in text, f"{command} is documented nowhere"
        assert second in text


def test_every_command_named_in_the_readme_exists() -> None:
    commands = _commands()
    for line in re.findall(r"rollup-engine ([a-z][a-z-]*(?: [a-z]+)?)", README):
        first, _, second = line.partition(" ")
        assert first in {c.split()[0] for c in commands}, f"README names `{line}`"
        if first == "dead-letters" and second:
            assert line in commands


def test_every_make_target_named_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "setup", "lint", "bench"} <= targets
    for page in ("README.md", "ARCHITECTURE.md"):
        for target in re.findall(r"`make ([a-z]+)`", (ROOT / page).read_text(encoding="utf-8")):
            assert target in targets, f"{page} names `make {target}`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_guarantee_names_tests_that_exist() -> None:
    page = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what holds")]
    assert rows
    for row in rows:
        proofs = re.findall(r"`(tests/[^`]+)`", row.split("|")[3])
        assert proofs, f"nothing proves: {row}"
        for proof in proofs:
            file, *names = proof.split("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            for name in names:
                assert re.search(rf"^ *(?:class|(?:async )?def) {name}\b", text, re.MULTILINE), f"there is no {proof}"
