"""Sends API calls to Kafka with librdkafka: python confluent_kafka_producer.py [calls.ndjson]

(pip install confluent-kafka)
"""

import json
import os
import sys
from pathlib import Path

from confluent_kafka import Producer

SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
IDEMPOTENCE = os.environ.get("KAFKA_IDEMPOTENCE", "on") == "on"  # off only for a broker that has none: the embedded one
TOPIC = "api-calls"


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


def send(calls: list[dict]) -> list[dict]:
    """Returns the calls that Kafka did not acknowledge: they may be there or not, so send them again, ids unchanged."""
    producer = Producer(
        {
            "bootstrap.servers": SERVERS,
            "acks": "all",  # an acknowledgement means: on every in-sync replica
            "enable.idempotence": IDEMPOTENCE,  # what the client itself sends again is written once
            "linger.ms": 20,  # wait a little for company: a batch costs the broker hardly more than an event
            "compression.type": "lz4",
            "delivery.timeout.ms": 120_000,  # so long the client retries by itself, before it reports an error
        }
    )
    waiting = dict(enumerate(calls))  # forget nothing before it is acknowledged

    def acknowledge(number: int, error: object) -> None:
        if error is None:
            del waiting[number]

    for number, call in enumerate(calls):
        while True:
            # No key: events spread over all partitions. The engine needs no order, and a big customer makes no hot one.
            try:
                producer.produce(TOPIC, event_of(call), on_delivery=lambda error, _, n=number: acknowledge(n, error))
                break
            except BufferError:  # the client's queue is full: wait for acknowledgements, never drop
                producer.poll(1)
        producer.poll(0)  # runs on_delivery for what has come back
    producer.flush()
    return list(waiting.values())


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("calls.ndjson")
    calls = [json.loads(line) for line in path.read_text().splitlines()]
    failed = send(calls)
    print(f"{len(calls) - len(failed)} of {len(calls)} acknowledged")
    sys.exit(f"Run it again for the other {len(failed)}: what is there already counts once." if failed else 0)
