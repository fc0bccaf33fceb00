"""Loads the `.sql` files: migrations in order, templates of a rollup's tables, named queries.

Names put into templates are sanitised by the configuration ([a-z0-9_] only) and checked again here.
"""

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent
ROOT = _HERE / "_sql" if (_HERE / "_sql").is_dir() else _HERE.parent / "sql"
_NAME = re.compile(r"[a-z0-9_]+")
_BUILT = ("columns", "totals", "names", "held", "excluded", "source", "start", "end")  # by callers, of plain names


@cache
def queries(file: str) -> dict[str, str]:
    """The named queries of `sql/queries/<file>.sql`: each follows a line `-- name: <name>`."""
    parts = re.split(r"^-- name: (\w+)$", (ROOT / "queries" / f"{file}.sql").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))


def migrations() -> list[tuple[str, str]]:
    """(name, SQL) in the order in which they apply."""
    return [(path.stem, path.read_text()) for path in sorted((ROOT / "migrations").glob("*.sql"))]


def template(name: str, **names: str) -> str:
    """`sql/rollup/<name>.sql` with names filled in."""
    return fill((ROOT / "rollup" / f"{name}.sql").read_text(), **names)


def fill(text: str, **names: str) -> str:
    """Puts `names` for `{name}` in SQL. Identifiers must be plain; lists of them and the like are built by callers."""
    for key, value in names.items():
        if key not in _BUILT and not _NAME.fullmatch(value):
            raise ValueError(f"{value!r} is no plain SQL name")
        text = text.replace(f"{{{key}}}", value)
    return text
