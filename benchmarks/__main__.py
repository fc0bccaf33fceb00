"""The benchmarks' command line: `python -m benchmarks NAME [options]`; figures on the console, and in `--json FILE`."""

import argparse
import importlib
import logging
import signal
import sys
from pathlib import Path

NAMES = ("end_to_end", "growth", "scale_out", "freshness", "recovery", "footprint", "ingest", "queries")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    chosen = parser.add_subparsers(dest="name", required=True)
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in NAMES}
    for name, module in modules.items():
        own = chosen.add_parser(name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(own)
        own.add_argument("--json", type=Path, help="put the outcome into this results file, in place of an earlier one")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a run cut short ends its services too
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers come and go between beds
    for suite in modules[options.name].main(options):
        suite.keep(options.json)


if __name__ == "__main__":
    main()
