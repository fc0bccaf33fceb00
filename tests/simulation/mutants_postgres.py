"""The guards of rule 2 that are Postgres's: the simulation has a sink in memory, so tests on a server show them."""

from rollup_engine.runtime import sql
from rollup_engine.runtime.postgres import PostgresSink
from tests.simulation.mutant import without

SINK_TESTS = "tests/contract/test_sink_contract.py"
FAULT_TESTS = "tests/contract/test_postgres_faults.py"
QUERIES = sql.queries("progress")

POSTGRES = [
    without(
        "Postgres: an advance needs the epoch",
        QUERIES,
        "advance",
        "epoch = $4",
        "$4::bigint IS NOT NULL",
        test=f"{SINK_TESTS}::TestAdvance::test_a_claim_that_was_taken_over_changes_nothing[postgres]",
    ),
    without(
        "Postgres: an advance needs the version",
        QUERIES,
        "advance",
        "version = $5",
        "$5::bigint IS NOT NULL",
        test=f"{SINK_TESTS}::TestAdvance::test_a_claim_advances_from_where_it_stands_only[postgres]",
    ),
    without(
        "Postgres: a claim raises the epoch",
        QUERIES,
        "claim",
        "epoch = progress.epoch + 1",
        "epoch = progress.epoch",
        test=f"{SINK_TESTS}::TestClaims::test_of_claims_at_once_only_the_last_can_advance[postgres]",
    ),
    without(
        "Postgres: nothing is written without the row",
        PostgresSink,
        "_move",
        "raise ClaimLost",
        "pass",
        test=f"{SINK_TESTS}::TestAdvance::test_a_claim_that_was_taken_over_changes_nothing[postgres]",
    ),
    without(
        "Postgres: a statement that commits itself books nothing without the row",
        QUERIES,
        "advance",
        "line.* FROM moved, unnest(",
        "line.* FROM unnest(",
        test=f"{FAULT_TESTS}::TestAmbiguousCommit::test_a_statement_that_arrives_after_it_was_tried_again_does_nothing",
    ),
    without(
        "Postgres: a COMMIT without an answer is read back",
        PostgresSink,
        "advance",
        " if again else None",
        " if False else None",
        test=f"{FAULT_TESTS}::TestAmbiguousCommit::test_the_advance_takes_place_once[COMMIT-lose the answer]",
    ),
]
