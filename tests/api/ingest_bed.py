"""The API with a Kafka that does what the test says, and events that its bed's YAML takes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.api.bed import Client
from tests.unit.runtime.fake_producer import Kafka

PATH = "/v1/ingest"
TAKEN = {"validation_failed": []}


def event(key: str = "1", **changes: object) -> dict[str, object]:
    """A good event of the bed's `download`, which maps members of its own beside Orb's."""
    now = datetime.now(UTC).isoformat()
    good = {"event_name": "download", "idempotency_key": key, "timestamp": now, "properties": {}}
    good |= {"external_customer_id": "acme", "id": key, "at": now, "customer": "acme", "bytes": 1}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


class Door:
    """The API with a Kafka behind it."""

    def __init__(self, api: Client, kafka: Kafka) -> None:
        self.api, self.kafka = api, kafka

    @classmethod
    def of(cls, api: Client) -> Door:
        kafka, services = Kafka(), api.services
        services._intake = kafka.intake(services.config, ingest_timeout_s=0.5)
        return cls(api, kafka)

    async def post(self, *events: Any, path: str = PATH, key: str | None = None, **headers: str) -> httpx.Response:
        return await self.api.post(path, {"events": list(events)}, key=key, **headers)

    @property
    def sent(self) -> list[str]:
        """The ids of all records that were sent."""
        return [json.loads(value)["id"] for one in self.kafka.made for values, _ in one.sent for value in values]
