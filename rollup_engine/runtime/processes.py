"""Processes that outlive whoever started them: start, recognise, end.

Owns: starting a program detached, telling by its command line that a pid is still that program, ending it, and the
file locks that keep two starters apart. Must never: signal a pid whose command line it has not just checked, or know
what the programs are.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rollup_engine.errors import RollupError

POLL_SECONDS = 0.01
LOG_TAIL_BYTES = 2_000
_PORT_TRIES = 20
_ports_given: set[int] = set()


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that a program runs as."""

    name: str
    uid: int
    gid: int


def spawn_detached(command: Sequence[str], log: Path, account: Account | None = None) -> int:
    """Start `command` in a session of its own, its output in `log` (started anew), and return its pid.

    The program is no child of this process: it stays when we are killed, and leaves us no zombie when it ends.
    """
    with log.open("wb") as output:
        started = run(["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *command], output, account)
    return int(started.stdout)


def run(
    command: Sequence[str], errors: IO[bytes] | int = subprocess.STDOUT, account: Account | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run `command` to its end, standard error going to `errors`, as `account` or as ourselves; never raises for its
    exit status.

    Its environment is empty but for PATH: variables meant for the caller's other servers must not configure it.
    """
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
        user=None if account is None else account.uid,
        group=None if account is None else account.gid,
        extra_groups=None if account is None else [],
    )


def runs(pid: int, argument: str) -> bool:
    """Whether `pid` is a live process with exactly this argument on its command line.

    The argument must be unique to the program's one start (a random id, a data directory): unlike a start time, it
    can neither be shared by a reused pid nor be moved by a clock that was set.
    """
    import psutil  # part of the extra `embedded`

    try:
        return argument in psutil.Process(pid).cmdline()  # a zombie has an empty one
    except psutil.Error:
        return False


def working_in(directory: Path) -> list[int]:
    """The processes whose working directory this is, as far as we may see them."""
    import psutil

    return [
        process.pid
        for process in psutil.process_iter(["cwd", "status"])
        if process.info["cwd"] == str(directory) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def end(pid: int, argument: str, signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send the signals in turn, waiting that many seconds after each, until `pid` is gone. None if it is not ours.

    Raises RollupError when it is still there after the last one.
    """
    for number, patience_seconds in signals:
        if not runs(pid, argument):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait_until(lambda: not runs(pid, argument), patience_seconds):
            return
    raise RollupError(f"Process {pid} does not end, though it was told to. Look at it with `ps {pid}`, then end it.")


def wait_until(condition: Callable[[], bool], patience_seconds: float) -> bool:
    """Poll until `condition` holds (True) or the time is over (False)."""
    deadline = time.monotonic() + patience_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_port(preferred: int | None = None) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on right now: `preferred` if it can be had. No other one twice:
    whoever was given it may be about to listen."""
    for port in (preferred or 0, *[0] * _PORT_TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As servers do it, so that connections still closing down do not cost us the preferred port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found = int(probe.getsockname()[1])
                if port or found not in _ports_given:
                    _ports_given.add(found)
                    return found
    raise RollupError("No TCP port is free on 127.0.0.1. Close some connections or servers and try again.")


def log_tail(log: Path) -> str:
    """The end of a log, for an error message; says so where there is none."""
    try:
        text = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        text = ""
    return text or "(it logged nothing)"


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, its directory made if need be; waits for its holder. A killed process holds nothing.

    Raises RollupError where it cannot be written, by another user's doing for example.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RollupError(
            f"The state directory {path.parent} cannot be used ({error.strerror}). Set ROLLUP_STATE_DIR to another one."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Share:
    """One process's use of a service, as a shared lock that vanishes with the process.

    Take and leave it only while holding the service's `exclusive` lock: the two together make "nobody uses it any
    more, so I stop it" one step.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Give the use up. True when nobody else has one; a second call does nothing and says False."""
        if self._descriptor is None:
            return False
        descriptor, self._descriptor = self._descriptor, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def end_with_parent(parent: int) -> None:
    """Linux: SIGTERM for this process when `parent`, which started it, is gone, however it ended. Nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was gone before that
            os.kill(os.getpid(), signal.SIGTERM)
