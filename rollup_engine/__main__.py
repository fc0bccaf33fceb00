"""`python -m rollup_engine` is `rollup-engine`."""

from rollup_engine.cli import main

if __name__ == "__main__":
    main()
