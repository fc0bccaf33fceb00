"""Taking events while one topic is slow, missing or stuck: who waits for it, and how much it may hold."""

from __future__ import annotations

import asyncio

import pytest

from rollup_engine.config.model import Config
from rollup_engine.errors import IntakeUnavailable
from rollup_engine.intake.door import Judged, Submitted
from tests.unit.route.specs import event, event_type
from tests.unit.runtime.fake_producer import Kafka

MB = 1 << 20
TOPICS = ("one", "two")


class TestOneTopic:
    """What is the matter with one is no matter of others, though requests are judged and sent together."""

    async def config(self) -> Config:
        return Config(events=tuple(event_type(name).model_copy(update={"kafka_topics": (name,)}) for name in TOPICS))

    @staticmethod
    def call(*names: str, **changes: object) -> list[Submitted]:
        return [Submitted(event(**changes), name, "1") for name in names]

    async def test_is_slow(self) -> None:
        kafka = Kafka()
        intake = kafka.intake(self.config, ingest_timeout_s=0.5)
        await intake.take(self.call(*TOPICS))
        kafka.made[0].stuck.add("two")
        names = (["one"], ["two"], ["one", "two"], ["x"])
        calls = [asyncio.create_task(intake.take(self.call(*some))) for some in names]
        await asyncio.wait([calls[0], calls[3]], timeout=0.25)
        assert [call.done() for call in calls] == [True, False, False, True], "it waits for its own topics only"
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [Judged, IntakeUnavailable, IntakeUnavailable, Judged]

    async def test_is_missing(self) -> None:
        kafka, answered = Kafka(), asyncio.Event()

        async def there(topics: list[str]) -> dict[str, int]:
            await answered.wait()
            return {}

        intake = kafka.intake(self.config, ingest_timeout_s=5)
        await intake.take(self.call(*TOPICS))
        del kafka.made[0].batch_bytes["two"]
        kafka.made[0].there = there
        calls = [asyncio.create_task(intake.take(self.call(*some))) for some in (["one"], ["two"], ["one", "two"])]
        await asyncio.wait(calls[:1], timeout=1)
        assert [call.done() for call in calls] == [True, False, False]
        answered.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [Judged, IntakeUnavailable, IntakeUnavailable]
        assert "does not exist" in str(found[1])
        assert kafka.made[0].asked == [["two"]]

    async def test_is_stuck(self) -> None:
        """Then it holds its share, and no more."""
        kafka = Kafka()
        intake = kafka.intake(self.config, ingest_held_mb=16)
        await intake.take(self.call(*TOPICS))
        kafka.made[0].stuck.add("two")
        large = self.call(*["two"] * 3, more="x" * 900_000)
        words = []
        for _ in range(8):
            with pytest.raises(IntakeUnavailable) as refused:
                await intake.take(large)
            words.append("of this kind" in str(refused.value))
            assert len((await intake.take(self.call(*["one"] * 3, more="x" * 900_000))).accepted) == 3
        assert words == [False] * 3 + [True] * 5
        assert kafka.made[0].left_behind["two"] <= 8 * MB
