"""Who reads no bucket pays for no bucket's libraries: they are imported once an object asks for them."""

import subprocess
import sys

SCRIPT = """
import sys
from rollup_engine.buckets.rows import rows
from rollup_engine.buckets.store import open_store
open_store("file:///tmp")
print(sorted({"s3fs", "aiobotocore", "botocore", "fsspec", "pyarrow", "backports.zstd"} & set(sys.modules)))
"""


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
