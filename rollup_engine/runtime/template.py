"""How `up` starts a role: as a fork of a template that has imported what roles need, so that it is in memory once; or,
where there is no template, as a program of its own.

The template is forked off `up` before that has a thread, an event loop or a connection, and never gets one: it waits,
forks, and says who has ended. It ends with `up`, and the roles with it. Must never know what a role does.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Protocol, TypeAlias

_ROLES = (  # what they import, with what Faust and uvicorn load once they begin
    "setproctitle",
    "rollup_engine.runtime.worker",
    "faust.app.router",
    "faust.assignor",
    "faust.events",
    "faust.fixups.base",
    "faust.fixups.django",
    "faust.stores.base",
    "faust.tables.objects",
    "faust.tables.sets",
    "faust.topics",
    "faust.transport.drivers.aiokafka",
    "faust.transport.conductor",
    "faust.transport.utils",
    "faust.web.cache.backends.memory",
    "faust.web.drivers.aiohttp",
    "faust.worker",
)
_API = (
    "rollup_engine.api.serve",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)
TITLE = "rollup_engine template"
_MESSAGE_BYTES_MAX = 1 << 16
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Process(Protocol):
    """What is asked of a role's process; `subprocess.Popen` is one."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


Start: TypeAlias = Callable[[Sequence[str], Mapping[str, str]], Process]
"""A process of `rollup-engine` with these arguments, in this environment beside our own; in a session of its own, so
that Ctrl-C reaches us alone. It ends when we do."""


@contextmanager
def starting(*, api: bool) -> Iterator[Start]:
    """The way to start roles during the block, `api`: the API's too. To be entered while this process has nothing
    running yet."""
    if sys.platform != "linux":  # elsewhere a fork without exec is not safe
        yield spawn
        return
    template = Template(_ROLES + _API if api else _ROLES)
    try:
        yield template.start
    finally:
        template.close()


def spawn(arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
    """`Start`, as a program of its own."""
    return subprocess.Popen(_command(arguments, os.getpid()), env={**os.environ, **environment}, start_new_session=True)


def _command(arguments: Sequence[str], parent: int) -> list[str]:
    return [sys.executable, "-m", "rollup_engine", *arguments, "--parent", str(parent)]


class Template:
    """Our end of it. Where it has died, its roles end too, and others are started as programs of their own."""

    def __init__(self, modules: Sequence[str]) -> None:
        """`modules`: what it imports."""
        self._forks: dict[int, _Fork] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # a page that the collector never writes to stays shared
        self._pid = os.fork()
        if not self._pid:
            self._control.close()
            _become_template(theirs, modules)
        theirs.close()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        """`Start`, as a fork of the template."""
        self.ask({"arguments": list(arguments), "environment": dict(environment)})
        while (told := self.hear(wait=True)) is not None:
            if "status" not in told:
                fork = self._forks[told["pid"]] = _Fork(self, told["pid"])
                return fork
        return spawn(arguments, environment)

    def ask(self, message: Mapping[str, object]) -> None:
        with suppress(OSError):  # it is gone: what it says next is nothing
            self._control.send(json.dumps(message).encode())

    def hear(self, *, wait: bool) -> dict[str, Any] | None:
        """The next that it says, taken note of. None: nothing, so far or for ever."""
        try:
            message = self._control.recv(_MESSAGE_BYTES_MAX, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            message = b""
        if not message:  # it is gone, and with it the roles
            for fork in self._forks.values():
                fork.returncode = -signal.SIGKILL
            self._forks.clear()
            return None
        told: dict[str, Any] = json.loads(message)
        if "status" in told:
            self._forks.pop(told["pid"]).returncode = told["status"]
        return told

    def close(self) -> None:
        """End it, and what still runs of its roles."""
        self._control.close()
        os.waitpid(self._pid, 0)


class _Fork:
    """Implements `Process`. Only the template signals it: nobody else knows whether its pid is still its own."""

    def __init__(self, template: Template, pid: int) -> None:
        self._template, self.pid = template, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        while self.returncode is None and self._template.hear(wait=False) is not None:
            pass
        return self.returncode

    def wait(self) -> int:
        while self.returncode is None:
            self._template.hear(wait=True)
        return self.returncode

    def send_signal(self, sig: int, /) -> None:
        self._template.ask({"signal": sig, "pid": self.pid})

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become_template(control: socket.socket, modules: Sequence[str]) -> NoReturn:
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # who signals all of `up` ends the roles, and not us first
        gc.disable()  # what it would free is filled by the roles, each in a page of its own
        for name in modules:
            importlib.import_module(name)
        _name_process(TITLE)
        gc.freeze()
        _wait_and_fork(control)
    except BaseException:  # noqa: BLE001 - whatever it is, it must not get back into `up`'s stack
        traceback.print_exc()
    finally:
        os._exit(0)


def _wait_and_fork(control: socket.socket) -> None:
    """Until `up` has gone."""
    ends: dict[int, int] = {}  # of a pipe that a role holds open for as long as it lives, to the role's pid
    while True:
        watched: list[Any] = [control, *ends]
        ready = select.select(watched, [], [])[0]
        for end in ends.keys() & set(ready):
            os.close(end)
            pid = ends.pop(end)
            _, status = os.waitpid(pid, 0)
            _tell(control, {"pid": pid, "status": os.waitstatus_to_exitcode(status)})
        if control not in ready:
            continue
        message = control.recv(_MESSAGE_BYTES_MAX)
        if not message:
            return
        asked = json.loads(message)
        if "signal" in asked:
            if asked["pid"] in ends.values():  # so it has not been waited for, and the pid is still its own
                os.kill(asked["pid"], asked["signal"])
            continue
        command = _command(asked["arguments"], os.getpid())
        end, held = os.pipe()
        pid = os.fork()
        if not pid:
            control.close()
            for other in (end, *ends):
                os.close(other)
            _become_role(command, asked["environment"])
        os.close(held)
        ends[end] = pid
        _tell(control, {"pid": pid})


def _name_process(title: str) -> None:
    """As `ps` shows it."""
    from setproctitle import setproctitle  # for Linux alone

    setproctitle(title)


def _tell(control: socket.socket, message: Mapping[str, int]) -> None:
    with suppress(OSError):  # `up` has gone: nothing is heard of it next
        control.send(json.dumps(message).encode())


def _become_role(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """As `command` would run, up to its exit status."""
    status: object = 1
    try:
        gc.enable()
        os.setsid()
        os.environ.update(environment)
        _name_process(" ".join(command))
        sys.argv = command[2:]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        runpy.run_module(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ending:
        status = ending.code or 0
    except BaseException:  # noqa: BLE001 - as an interpreter does at the end of a program
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)
