"""Node's clients for the tests: npm installs what `examples/producers/package.json` pins, once, into `.cache/node`.

Owns: where they are, and the reason where they cannot be had.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rollup_engine.runtime import processes

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "examples" / "producers" / "package.json"
CACHE = ROOT / ".cache" / "node"
NODE_VERSION_MIN = 18
INSTALL_SECONDS = 120


class Unavailable(Exception):
    """Node's clients cannot be had on this machine."""


def node() -> str | None:
    """The Node on the PATH; None if there is none, or only one too old."""
    found = shutil.which("node")
    if found is None:
        return None
    shown = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"v(\d+)", shown)
    return found if version and int(version[1]) >= NODE_VERSION_MIN else None


def can_be_had() -> bool:
    """Whether there is no excuse for going without."""
    return node() is not None and shutil.which("npm") is not None


def modules() -> Path:
    """The directory `node_modules` with the pinned clients, filled by npm the first time. Raises Unavailable."""
    npm = shutil.which("npm")
    if node() is None or npm is None:
        raise Unavailable(f"Node {NODE_VERSION_MIN} or newer with npm is not installed")
    directory = CACHE / hashlib.sha256(PACKAGE.read_bytes()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with processes.exclusive(CACHE / "lock"):
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                _install(npm, Path(work))
                (Path(work) / "node_modules").rename(directory)
    return directory


def _install(npm: str, work: Path) -> None:
    shutil.copy(PACKAGE, work)
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            command,
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm did not install {PACKAGE.name} within {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        raise Unavailable(f"npm could not install {PACKAGE.name}: {' '.join(done.stderr.split())[:300]}")
