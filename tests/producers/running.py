"""What runs and what is asked of it: the examples as processes, totals in Postgres, and what they must come to."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.acceptance.cli import ROOT, Engine
from tests.acceptance.traffic import rows

EXAMPLES = ROOT / "examples"
ROLLUPS = [*EXAMPLES.glob("producers/rollups/*.yaml"), *EXAMPLES.glob("cloudevents/rollups/*.yaml")]
PRODUCERS = {
    "aiokafka": (sys.executable, EXAMPLES / "producers/aiokafka_producer.py"),
    "confluent-kafka": (sys.executable, EXAMPLES / "producers/confluent_kafka_producer.py"),
    "kafkajs": ("node", EXAMPLES / "producers/kafkajs_producer.mjs"),
    "curl": ("sh", EXAMPLES / "producers/curl.sh"),
    "orb-billing (Python)": (sys.executable, EXAMPLES / "producers/orb_billing.py"),
    "orb-billing (Node)": ("node", EXAMPLES / "producers/orb_billing.mjs"),
}

Totals = dict[str | None, tuple[int, int]]
"""Group (endpoint or model) to (count, tokens)."""


@dataclass(frozen=True)
class Running:
    """A running engine. `api` without a path; `idempotence`: whether its Kafka has idempotent producers."""

    engine: Engine
    kafka: str
    database_url: str
    api: str
    key: str
    idempotence: bool

    @property
    def url(self) -> str:
        """What stands in the place of Orb's base URL."""
        return f"{self.api}/v1"

    def run(self, command: Sequence[str], url: str | None = None) -> "subprocess.CompletedProcess[str]":
        """An example, to its end, with the addresses in its environment."""
        environment = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka,
            "KAFKA_IDEMPOTENCE": "on" if self.idempotence else "off",
            "INGEST_URL": url or self.url,
            "INGEST_KEY": self.key,
        }
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    async def totals(self, customer: str, view: str = "api_call", group: str = "endpoint") -> Totals:
        """One customer's, over all windows."""
        query = (
            f'SELECT "{group}" AS "group", sum(count)::bigint AS n, sum(tokens)::bigint AS tokens'
            f' FROM rollups."{view}" WHERE external_customer_id = $1 GROUP BY 1'
        )
        found = await rows(self.database_url, query, customer)
        return {row["group"]: (row["n"], row["tokens"]) for row in found}


def calls(customer: str, distinct: int, repeated: int) -> list[dict[str, Any]]:
    """API calls over an hour, some of them written down twice."""
    rng = random.Random(customer)
    made: list[dict[str, Any]] = [
        {
            "request_id": uuid4().hex,
            "at": f"2024-03-14T09:{rng.randrange(60):02}:{rng.randrange(60):02}Z",
            "customer": customer,
            "endpoint": rng.choice(["/v1/chat", "/v1/embed"]),
            "tokens": rng.randrange(5_000),
        }
        for _ in range(distinct)
    ]
    return made + rng.choices(made, k=repeated)


def event_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """What the examples make of a call."""
    return {
        "event_name": "api_call",
        "idempotency_key": call["request_id"],
        "timestamp": call["at"],
        "external_customer_id": call["customer"],
        "properties": {"endpoint": call["endpoint"], "tokens": call["tokens"]},
    }


def recount(made: Sequence[Mapping[str, Any]]) -> Totals:
    """What the totals must be: every request once."""
    once = {call["request_id"]: call for call in made}.values()
    counts, tokens = Counter[str | None](), Counter[str | None]()
    for call in once:
        counts[call["endpoint"]] += 1
        tokens[call["endpoint"]] += call["tokens"]
    return {endpoint: (count, tokens[endpoint]) for endpoint, count in counts.items()}


def ndjson(file: Path, values: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file
