"""Takes the guards away, one at a time, and shows that the suite goes red for each.

`python -m tests.simulation.mutating` prints one line a guard: what went red, and how.

As a pytest plugin it takes away the guard that MUTANT names, for tests in a process of their own.
"""

import __future__

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

from tests.simulation.mutant import Change, Mutant
from tests.simulation.mutants import MUTANTS
from tests.simulation.schedule import Simulation

SCHEDULES_MAX = 400
VARIABLE = "MUTANT"
_for_good = ExitStack()


class Survived(Exception):
    """Nothing went red without a guard."""


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The engine without the guard."""
    with ExitStack() as undo:
        for (_, name), changes in groupby(mutant.changes, lambda change: (id(change.owner), change.name)):
            edits = list(changes)
            owner = edits[0].owner
            before = owner[name] if isinstance(owner, dict) else getattr(owner, name)
            if isinstance(owner, dict):
                owner[name] = _edited(before, edits)
                undo.callback(owner.__setitem__, name, before)
            else:
                setattr(owner, name, _compiled(before, edits, mutant.guard))
                undo.callback(setattr, owner, name, before)
        yield


def _compiled(function: Any, edits: list[Change], guard: str) -> Any:
    source = _edited(textwrap.dedent(inspect.getsource(function)), edits)
    flags = function.__code__.co_flags & __future__.annotations.compiler_flag  # its module may not evaluate annotations
    code = compile(source, f"<without: {guard}>", "exec", flags=flags, dont_inherit=True)
    made: dict[str, Any] = {}
    exec(code, function.__globals__, made)  # noqa: S102 - our own source, with one guard taken out
    return made[function.__name__]


def _edited(text: str, edits: list[Change]) -> str:
    for edit in edits:
        assert text.count(edit.old) == 1, f"{edit.name} no longer says {edit.old!r} once: adapt this mutant"
        text = text.replace(edit.old, edit.new)
    return text


def red(mutant: Mutant) -> str:
    """What goes red without the guard, in a few words. Raises `Survived`."""
    return _test(mutant) if mutant.test else _simulation(mutant)


def _simulation(mutant: Mutant) -> str:
    Simulation(mutant.seed).run()  # and is not red with it
    with applied(mutant):
        for seed in range(mutant.seed, mutant.seed + SCHEDULES_MAX):
            try:
                Simulation(seed).run()
            except Exception as error:  # noqa: BLE001 - a violation, or a stage that breaks: red either way
                return f"seed {seed}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    raise Survived(f"{SCHEDULES_MAX} schedules show nothing wrong without this guard: {mutant.guard}")


def _test(mutant: Mutant) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.simulation.mutating", mutant.test]
    environment = {**os.environ, VARIABLE: mutant.guard}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if not failed:
        raise Survived(f"{mutant.test} does not fail without this guard: {mutant.guard}\n{done.stdout}{done.stderr}")
    return failed[0].removeprefix("FAILED ")


def pytest_configure() -> None:
    if guard := os.environ.get(VARIABLE):
        _for_good.enter_context(applied(next(mutant for mutant in MUTANTS if mutant.guard == guard)))


def main() -> int:
    survived = 0
    for mutant in MUTANTS:
        try:
            how = red(mutant)
        except Survived as green:
            how, survived = f"SURVIVED: {green}", survived + 1
        print(f"{mutant.guard}: {how[:200]}", flush=True)
    print(f"{len(MUTANTS) - survived} of {len(MUTANTS)} guards: the suite goes red without them")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
