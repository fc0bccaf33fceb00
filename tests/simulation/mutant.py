"""What a mutant is: the small change of the engine's code or of an SQL statement that takes one guard away."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """`old`, which stands once in the source of `owner.name`, or in the SQL of that name, becomes `new`."""

    owner: Any  # a class or module; a dictionary of named queries
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """The changes that take a guard away, and what is known to show it: a `test` of the suite, otherwise a `seed`."""

    guard: str
    changes: tuple[Change, ...]
    seed: int = 1
    test: str = ""


def without(
    guard: str, owner: Any, name: str, old: str, new: str, *more: Change, seed: int = 1, test: str = ""
) -> Mutant:
    return Mutant(guard, (Change(owner, name, old, new), *more), seed, test)
