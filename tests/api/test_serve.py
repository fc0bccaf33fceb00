"""`rollup-engine serve` as a process: its OpenAPI document holds for whatever is sent, and it ends in order."""

import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from rollup_engine.runtime import processes
from tests.acceptance.cli import Engine, Process, get, until
from tests.api.bed import APP_ID, METRICS

CONFORMS = [
    not_a_server_error,
    allow_header_conformance,
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


class Served:
    """The process, a key of every scope, and where it is."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.key = engine.ok("api-keys", "create", "process", "--scope", "admin").split()[-1]
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process = engine.start("serve", "--port", str(self.port))
        until("it listens", lambda: self.process.popen.poll() is not None or get(f"{self.url}/health/ready")[0] == 200)

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own page
            return json.load(answer)


@pytest.fixture(scope="module")
def served(filled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("serve")
    metrics = directory / "metrics"
    metrics.mkdir()
    for metric in METRICS.values():
        if not metric.parameters:
            lines = [f"name: {metric.name}", f"description: {metric.description}", "unit: events"]
            (metrics / f"{metric.name}.yaml").write_text("\n".join([*lines, f"sql: {json.dumps(metric.sql)}", ""]))
    engine = Engine(directory, directory, database_url=filled, app_id=APP_ID, metrics_dir=str(metrics))
    engine.environment["ROLLUP_API_RATE"] = "1000000/minute"
    yield Served(engine)
    engine.close()


@pytest.mark.parametrize("mode", GenerationMode)
def test_whatever_is_sent(served: Served, mode: GenerationMode) -> None:
    """Requests that fit the document, and such that do not: every answer is one that the document knows."""
    headers = {"Authorization": f"Bearer {served.key}"}
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=12, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        def whatever(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CONFORMS)

        if mode is GenerationMode.POSITIVE or operation.query or operation.body:
            whatever()
            tried += 1
    assert tried >= 4


def test_the_document_is_complete(served: Served) -> None:
    document = served.get("/openapi.json")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            if not path.startswith(("/v1/", "/api/")):
                continue
            assert operation["security"] == [{"ApiKey": []}], where
            assert {"401", "403", "422", "429", "500", "503"} <= operation["responses"].keys(), where
            if "204" not in operation["responses"]:
                assert operation["responses"]["200"]["content"]["application/json"]["schema"], where
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], where
            for parameter in operation.get("parameters", []):
                assert parameter["description"], (where, parameter["name"])
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"


def test_it_answers_and_measures(served: Served) -> None:
    assert [one["name"] for one in served.get("/v1/metrics")["data"]] == ["bytes", "calls", "recent", "split"]
    books = served.get("/v1/status")
    assert books["events"]["download"]["counted"] > 0
    assert books["kafka"] is False
    _, text = get(f"{served.url}/metrics")
    assert 'rollup_api_requests_total{route="/v1/metrics",status="200"}' in text
    assert "acme" not in text
    status, page = get(f"{served.url}/docs")
    assert status == 200
    assert "<script" not in page
    assert all(f"<code>{one}" in page for one in ("GET /v1/status", "POST /v1/query", "GET /v1/metrics/{name}/usage"))


def test_memory_stays_low(served: Served) -> None:
    """What is large is loaded once someone asks for Parquet or a lag, and not before."""
    code = (
        "import sys, rollup_engine.api.serve;"
        "print([name for name in ('polars', 'numpy', 'aiokafka', 'faust') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout == "[]\n"


def test_keys_by_the_command_line(served: Served) -> None:
    engine = served.engine
    made = engine.ok("api-keys", "create", "for acme", "--scope", "read", "--scope", "query", "--customer", "acme")
    listed = json.loads(engine.ok("api-keys", "list", "--format", "json"))
    (row,) = [one for one in listed if one["name"] == "for acme"]
    assert (row["scopes"], row["customer"], row["revoked_at"]) == ("query read", "acme", None)
    assert made.split()[-1].startswith(f"rk_{row['id']}_")
    assert made.split()[-1] not in str(listed)
    assert "'for acme' is revoked" in engine.ok("api-keys", "revoke", "for acme")
    again = engine.run("api-keys", "revoke", "for acme")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("rollup-engine: There is no key 'for acme'")


def test_it_answers_at_once(served: Served) -> None:
    """Not held up by Nagle's algorithm: 40 ms each, then."""
    connection, took = http.client.HTTPConnection("127.0.0.1", served.port), []
    for _ in range(20):
        begun = time.perf_counter()
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        took.append(time.perf_counter() - begun)
    connection.close()
    assert min(took[1:]) < 0.035


def test_a_port_in_use_is_one_sentence(served: Served) -> None:
    refused = served.engine.run("serve", "--port", str(served.port))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "ROLLUP_API_PORT" in refused.stderr


def test_it_ends_in_order(served: Served) -> None:
    """The last one: the process ends with it."""
    assert served.process.stop(signal.SIGTERM) == 0, served.process.output
    assert "Traceback" not in served.process.output
    assert '"event": "stopped"' in served.process.output
    assert served.key not in served.process.output


def test_a_broken_metric_file_is_told_at_the_start(filled: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: Bad\n")
    refused = Engine(tmp_path, tmp_path, database_url=filled, metrics_dir=str(tmp_path)).run("serve")
    assert refused.returncode == 2
    assert "bad.yaml:1" in refused.stderr
