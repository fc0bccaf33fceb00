"""Every guard of the engine, as the small change of its code or of an SQL statement that takes it away.

What shows that a guard is missing: the simulation, by a seed that is known to show it; or, where the simulation cannot
see it (another guard stands behind it, or the guard is SQL), a test of the suite. Where a change elsewhere has made a
seed's schedule another one, the search goes on from there. A guard whose code has changed is reported as such: this
list then needs the new text.
"""

from tests.simulation.mutants_exchange import EXCHANGE
from tests.simulation.mutants_postgres import POSTGRES
from tests.simulation.mutants_progress import PROGRESS
from tests.simulation.mutants_verdicts import ROLLUPS, VERDICTS

MUTANTS = [*EXCHANGE, *PROGRESS, *POSTGRES, *VERDICTS, *ROLLUPS]
