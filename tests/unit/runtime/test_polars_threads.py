"""How many threads Polars has in a process of ours."""

import os
import subprocess
import sys

import pytest

POOL = """
import sys
from rollup_engine import cli
sys.argv = ["rollup-engine", "--help"]
try:
    cli.main()
finally:
    import polars
    print(polars.thread_pool_size())
"""


@pytest.mark.parametrize(("asked", "got"), [(None, 1), ("3", 3)])
def test_one_unless_more_are_asked_for(asked: str | None, got: int) -> None:
    """Polars asks as it is imported: too late, and nothing would say so."""
    environment = {name: value for name, value in os.environ.items() if name != "POLARS_MAX_THREADS"}
    if asked is not None:
        environment["POLARS_MAX_THREADS"] = asked
    done = subprocess.run(
        [sys.executable, "-c", POOL], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout.splitlines()[-1]) == got
