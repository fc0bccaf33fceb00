#!/bin/sh
# Makes .venv and installs this project into it with the given extras: scripts/setup.sh embedded,dev
# Needs Python 3.11 or newer and a package index; uses uv where there is one, venv and pip otherwise.
set -eu
cd "$(dirname "$0")/.."
extras=$1

is_new_enough() {  # also false for a launcher that finds no such Python
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3 python; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer is on the PATH. Install one, or name one: make PYTHON=/path/to/python3" >&2
    return 1
}

with_uv() {
    command -v uv >/dev/null || return 1
    if ! is_new_enough .venv/bin/python; then
        uv venv --quiet --clear --python "$python" .venv || return 1
    fi
    uv pip install --quiet --python .venv/bin/python --editable ".[$extras]"
}

with_pip() {
    if ! is_new_enough .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear .venv || {
            echo "$python cannot make a virtual environment. On Debian and Ubuntu its venv module is a package of its" \
                "own: apt install python3-venv. Or install uv." >&2
            return 1
        }
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
}

python=$(find_python)
echo "Setting up .venv with $python: once, and again when pyproject.toml changes; about a minute." >&2
# pip also where uv fails: a package index may be configured for pip alone.
with_uv || with_pip || {
    echo "The packages could not be installed; the lines above say why. Is a package index reachable?" >&2
    exit 1
}
