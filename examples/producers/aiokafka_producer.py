"""Sends API calls to Kafka with aiokafka: python aiokafka_producer.py [calls.ndjson]   (pip install "aiokafka[lz4]")"""

import asyncio
import json
import os
import sys
from pathlib import Path

from aiokafka import AIOKafkaProducer

SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
IDEMPOTENCE = os.environ.get("KAFKA_IDEMPOTENCE", "on") == "on"  # off only for a broker that has none: the embedded one
TOPIC = "api-calls"
BATCH = 1_000  # events that wait for their acknowledgement at once: what bounds memory


def event_of(call: dict) -> bytes:
    """The id is the request's own: whoever sends this call again, and whenever, sends the same id."""
    event = {
        "event_name": "api_call",
        "idempotency_key": call["request_id"],
        "timestamp": call["at"],  # when it happened, not when it is sent
        "external_customer_id": call["customer"],
        "properties": {"endpoint": call["endpoint"], "tokens": call["tokens"]},
    }
    return json.dumps(event).encode()


async def send(calls: list[dict]) -> list[dict]:
    """Returns the calls that Kafka did not acknowledge: they may be there or not, so send them again, ids unchanged."""
    producer = AIOKafkaProducer(
        bootstrap_servers=SERVERS,
        acks="all",  # an acknowledgement means: on every in-sync replica
        enable_idempotence=IDEMPOTENCE,  # what the client itself sends again is written once
        linger_ms=20,  # wait a little for company: a batch costs the broker hardly more than an event
        max_batch_size=256 * 1024,
        compression_type="lz4",
    )
    failed = []
    async with producer:
        for start in range(0, len(calls), BATCH):
            batch = calls[start : start + BATCH]
            # No key: events spread over all partitions. The engine needs no order, and a big customer makes no hot one.
            sent = [await producer.send(TOPIC, event_of(call)) for call in batch]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)  # forget nothing before it is acknowledged
            failed += [call for call, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, Exception)]
    return failed


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("calls.ndjson")
    calls = [json.loads(line) for line in path.read_text().splitlines()]
    failed = asyncio.run(send(calls))
    print(f"{len(calls) - len(failed)} of {len(calls)} acknowledged")
    sys.exit(f"Run it again for the other {len(failed)}: what is there already counts once." if failed else 0)
