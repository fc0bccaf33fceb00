"""The suite goes red for every guard that is taken away, one at a time (`mutants`)."""

import pytest

from tests.simulation import mutating
from tests.simulation.mutant import Mutant
from tests.simulation.mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_suite_goes_red_without(mutant: Mutant) -> None:
    assert mutating.red(mutant)
