"""Sends API calls over HTTP with Orb's own client: python orb_billing.py [calls.ndjson]   (pip install orb-billing)"""

import json
import os
import sys
from pathlib import Path

from orb import BadRequestError, Orb

BATCH = 500  # as many events as one request may hold


def event_of(call: dict) -> dict:
    """The id is the request's own: whoever sends this call again, and whenever, sends the same id."""
    return {
        "event_name": "api_call",
        "idempotency_key": call["request_id"],
        "timestamp": call["at"],  # when it happened, not when it is sent
        "external_customer_id": call["customer"],
        "properties": {"endpoint": call["endpoint"], "tokens": call["tokens"]},
    }


def send(calls: list[dict]) -> list[dict]:
    """Returns what is wrong with which event; all others were taken. Raises where nothing is known: send them again."""
    client = Orb(
        base_url=os.environ.get("INGEST_URL", "http://127.0.0.1:6068/v1"),  # the only change
        api_key=os.environ["INGEST_KEY"],
        max_retries=8,  # of the same request with the same ids, after 408, 409, 429, 5xx and connections that break
        timeout=30,
    )
    refused = []
    for start in range(0, len(calls), BATCH):
        events = [event_of(call) for call in calls[start : start + BATCH]]
        while events:
            try:
                # Once this returns, the events are on every in-sync replica of Kafka: now they may be forgotten.
                client.events.ingest(events=events)
                break
            except BadRequestError as error:
                failed = error.body["validation_failed"]
                if not failed:
                    raise  # the request as a whole is wrong, and nothing of it was taken
                # Good ones are named too where others of the request have one id and different bodies: they go again.
                again = {one["idempotency_key"] for one in failed if "send it again" in one["validation_errors"][-1]}
                refused += [one for one in failed if one["idempotency_key"] not in again]  # wrong in themselves
                events = [event for event in events if event["idempotency_key"] in again]
    return refused


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("calls.ndjson")
    calls = [json.loads(line) for line in path.read_text().splitlines()]
    refused = send(calls)
    print(f"{len(calls) - len(refused)} of {len(calls)} acknowledged")
    sys.exit("\n".join(json.dumps(event) for event in refused) if refused else 0)
