"""The demo's curl line: what a shell makes of it, and what is said where there is no curl."""

import json
import shlex
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rollup_engine.config.loader import load
from rollup_engine.errors import RollupError
from rollup_engine.runtime import demo_http
from tests.acceptance.cli import ROOT

API = "http://127.0.0.1:6068"
AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_shell_reads_it_as_one_command() -> None:
    line = demo_http.curl_line(API, "rk_1_abc", AT)
    assert line.splitlines()[0] == f"curl -sS {API}/v1/ingest \\"
    *words, _, body = shlex.split(line)
    assert words[:3] == ["curl", "-sS", f"{API}/v1/ingest"]
    assert "Authorization: Bearer rk_1_abc" in words
    [event] = json.loads(body)["events"]
    assert event["timestamp"] == "2026-01-02T03:04:05Z"
    [declared] = load(ROOT / "examples" / "demo" / "rollups").events
    assert declared.match[0].value == event["event_name"] == demo_http.EVENT


@pytest.mark.parametrize(
    ("variables", "through"),
    [({"http_proxy": "http://proxy:1"}, True), ({"http_proxy": "http://proxy:1", "no_proxy": "127.0.0.1"}, False)],
)
def test_no_proxy_comes_between(variables: dict[str, str], through: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ("--noproxy 127.0.0.1 " in demo_http.curl_line(API, "k", AT)) == through


async def test_without_curl_the_line_is_there_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def create(*_: Any) -> str:
        return "rk_1_abc"

    monkeypatch.setattr(demo_http.api_keys, "create", create)
    monkeypatch.setattr(demo_http.shutil, "which", lambda _: None)
    console = Console(file=StringIO(), width=40)
    assert not await demo_http.send(None, "demo", API, console)  # type: ignore[arg-type]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "curl is not installed" in " ".join(printed.split())
    assert "'Authorization: Bearer rk_1_abc' \\\n  -H 'Content-Type: application/json' \\\n  -d '{" in printed


async def test_whatever_is_not_taken_is_an_error() -> None:
    assert await demo_http._run(f"printf %s {shlex.quote(demo_http.TAKEN)}") == demo_http.TAKEN
    for line, said in (("echo no entry", "no entry"), ("echo broken >&2; exit 7", "broken")):
        with pytest.raises(RollupError, match=f"The curl line failed: {said}"):
            await demo_http._run(line)
