"""YAML files on disk: which of a directory count, and their text.

Owns: names, sizes, encodings, and the problems of files that cannot be read. Must never look at what they say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rollup_engine.errors import Problem

FILE_BYTES_MAX: Final = 1 << 20
SUFFIXES: Final = (".yaml", ".yml")


def yaml_files(directory: Path) -> list[Path]:
    """The *.yaml and *.yml files, sorted. Hidden ones are left out: editors keep half-written copies there.

    Raises OSError where the directory cannot be read.
    """
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )


def read_text(path: Path, kind: str) -> str | Problem:
    """A file's text, or why it has none. `kind` is what such a file should be, with its article: `a rollup YAML`.

    Raises OSError where the file cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        return Problem(label(path), None, None, "this file is larger than 1 MiB", f"Is it {kind}?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Problem(label(path), line, None, "this line is not UTF-8 text", "Save the file as UTF-8.")


def unreadable(path: Path, error: OSError, what_to_create: str) -> Problem:
    """The problem of a path that raised. `what_to_create` completes a hint: `a YAML file per metric into it`."""
    if isinstance(error, FileNotFoundError):
        if path.suffix in SUFFIXES:
            return Problem(label(path), None, None, "no such file", "Check the path.")
        hint = f"Create it and put {what_to_create}."
        return Problem(label(path), None, None, "no such directory", hint)
    reason = (error.strerror or type(error).__name__).lower()
    return Problem(label(path), None, None, f"this cannot be read ({reason})", "Check the path and its permissions.")


def label(path: Path) -> str:
    """The path as given, in text that can be printed and stored."""
    return str(path).encode("utf-8", "backslashreplace").decode()
