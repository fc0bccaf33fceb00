"""Events over HTTP into a real engine: what was acknowledged is in the totals, once, whatever happens to `serve`."""

import asyncio
import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from rollup_engine.runtime import processes
from rollup_engine.runtime.embedded import adopt_broker
from rollup_engine.runtime.kafka import KafkaLog, wait_for_topics
from tests.acceptance.cli import PATIENCE_SECONDS, Engine, Process, until
from tests.acceptance.traffic import rows

YAML = """\
event: api_request
source: {topic: TOPIC, match: {event_name: api_request}}
fields: {id: idempotency_key, timestamp: timestamp, external_customer_id: external_customer_id}
rollups:
  - group_by: [properties.region]
    aggregates: [{sum: properties.bytes, minimum: 0}]
    emit_every: 500ms
"""
BATCH = 50
KILLS = 2


def events(count: int, seed: int) -> list[dict[str, Any]]:
    rng, now = random.Random(seed), datetime.now(UTC).isoformat()
    return [
        {
            "event_name": "api_request",
            "idempotency_key": str(uuid.UUID(int=rng.getrandbits(128))),
            "timestamp": now,
            "properties": {"region": rng.choice(["eu", "us", None]), "bytes": rng.randrange(1_000_000)},
            "external_customer_id": f"customer-{rng.randrange(20)}",
        }
        for _ in range(count)
    ]


class Served:
    """An `up`, a `serve` beside it, and what a client does that retries with the same ids."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.port = engine, processes.free_port()
        self.up = engine.start("up", "--no-api")
        self.up.says("Running.")
        self.serve = self.start()
        self.key = engine.ok("api-keys", "create", "producer", "--scope", "ingest").split()[-1]

    def start(self) -> Process:
        return self.engine.start("serve", "--port", str(self.port))

    def strike(self) -> None:
        """SIGKILL, and a new one."""
        self.serve.popen.kill()
        self.serve.ends()
        self.serve = self.start()

    def post(self, batch: Sequence[dict[str, Any]]) -> tuple[int, Any]:
        """(status, answer); status 0 where the connection broke."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/ingest", json.dumps({"events": batch}), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return 0, None
        finally:
            connection.close()

    def deliver(self, batch: Sequence[dict[str, Any]]) -> int:
        """Until it is acknowledged; how many tries that took."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for tries in range(1, 10_000):
            status, answer = self.post(batch)
            if status == 200:
                assert answer == {"validation_failed": []}
                return tries
            assert status in (0, 503), (status, answer)
            assert time.monotonic() < deadline, self.up.output + self.serve.output
            time.sleep(0.1)
        raise AssertionError

    def totals(self) -> dict[tuple[str, str | None], tuple[int, int]]:
        query = "SELECT * FROM rollups.api_request"
        found = Counter[Any](), Counter[Any]()
        for row in asyncio.run(rows(self.engine.environment["ROLLUP_DATABASE_URL"], query)):
            group = row["external_customer_id"], row["properties_region"]
            found[0][group] += row["count"]
            found[1][group] += int(row["sum_properties_bytes"])
        return {group: (count, found[1][group]) for group, count in found[0].items()}


def recount(sent: Sequence[dict[str, Any]]) -> dict[tuple[str, str | None], tuple[int, int]]:
    counts, sums = Counter[Any](), Counter[Any]()
    for one in sent:
        group = one["external_customer_id"], one["properties"]["region"]
        counts[group] += 1
        sums[group] += one["properties"]["bytes"]
    return {group: (count, sums[group]) for group, count in counts.items()}


@pytest.fixture(params=["embedded", "apache"])
def engine(request: pytest.FixtureRequest, make_engine: Callable[..., Engine]) -> Iterator[Engine]:
    name = f"ingest-{uuid.uuid4().hex[:8]}"
    yaml = YAML.replace("TOPIC", name)
    if request.param == "embedded":
        yield make_engine(yaml, ingest_timeout_s="1")
        return
    servers = request.getfixturevalue("apache")

    async def create() -> None:
        async with KafkaLog.connect({"bootstrap_servers": servers}) as log:
            await log.create(name, 4, {})
            await wait_for_topics(log, {name: 4})

    asyncio.run(create())
    yield make_engine(yaml, kafka_bootstrap_servers=servers, app_id=name)


def test_serve_is_killed_under_load(engine: Engine, request: pytest.FixtureRequest) -> None:
    """SIGKILL, again and again; every batch is sent until it is acknowledged, by three clients at once."""
    served = Served(engine)
    sent = events(3_000, seed=50)
    batches = [sent[start : start + BATCH] for start in range(0, len(sent), BATCH)]
    waiting, tries, lock = iter(batches), list[int](), threading.Lock()
    failed: list[BaseException] = []

    def client() -> None:
        try:
            while True:
                with lock:
                    batch = next(waiting, None)
                if batch is None:
                    return
                took = served.deliver(batch)
                with lock:
                    tries.append(took)
        except BaseException as error:
            failed.append(error)
            raise

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    for _ in range(KILLS):
        part = len(tries) + 5
        until("it is at work", lambda part=part: failed or len(tries) >= part)
        served.strike()
    for one in clients:
        one.join(PATIENCE_SECONDS)
    assert not failed
    assert len(tries) == len(batches)
    assert max(tries) > 1, "it was never struck in the middle"
    books = engine.settled(len(sent), "api_request")
    assert books["counted"] == len(sent)
    assert books["received"] == books["counted"] + books["duplicate"]
    expected = recount(sent)
    until("the totals", lambda: served.totals() == expected)
    if "embedded" in request.node.name:
        _kafka_hangs(served)
    assert served.serve.stop() == 0, served.serve.output
    assert served.up.stop() == 0, served.up.output
    assert "Traceback" not in served.up.output + served.serve.output


def _kafka_hangs(served: Served) -> None:
    """It stands still: no answer says that events are taken, each comes in time, and all is well by itself later."""
    before = served.totals()
    broker = adopt_broker(served.engine.state_dir)
    assert broker is not None
    more = events(200, seed=51)
    psutil.Process(broker.pid).suspend()
    try:
        begun = time.monotonic()
        status, answer = served.post(more)
        assert status == 503, answer
        assert "acknowledge" in answer["detail"]
        assert time.monotonic() - begun < 4
    finally:
        psutil.Process(broker.pid).resume()
    served.deliver(more)
    expected = Counter[Any](), Counter[Any]()
    for part in (before, recount(more)):
        for group, (count, total) in part.items():
            expected[0][group] += count
            expected[1][group] += total
    until("the totals", lambda: served.totals() == {g: (n, expected[1][g]) for g, n in expected[0].items()})
