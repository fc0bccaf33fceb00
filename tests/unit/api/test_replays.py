"""Answers kept for calls that are sent again: for how long, and how many."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response

from rollup_engine.api import replays
from rollup_engine.api.problems import Problem
from rollup_engine.api.replays import Replays


class Work:
    """Counts how often it was done; its answers tell them apart."""

    def __init__(self, status: int = 200, size: int = 1) -> None:
        self.times, self.status, self.size = 0, status, size

    async def __call__(self) -> Response:
        self.times += 1
        await asyncio.sleep(0)
        return Response(str(self.times).rjust(self.size), self.status, {"X-Own": "1"})


async def test_done_once_and_answered_in_full() -> None:
    kept, work = Replays(), Work(400)
    answers = [await kept.once("caller", "key", b"digest", work) for _ in range(3)]
    answers += await asyncio.gather(*(kept.once("caller", "other", b"digest", work) for _ in range(3)))
    assert work.times == 2
    assert [answer.body for answer in answers] == [b"1"] * 3 + [b"2"] * 3
    assert {(answer.status_code, answer.headers["x-own"]) for answer in answers} == {(400, "1")}
    assert len({id(answer) for answer in answers}) == len(answers)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_is_to_be_sent_again_is_not_kept(status: int) -> None:
    kept, work = Replays(), Work(status)
    for _ in range(2):
        await kept.once("caller", "key", b"digest", work)
    assert work.times == 2


@pytest.mark.parametrize("raised", [True, False])
async def test_who_waited_for_a_failure_has_it_too(raised: bool) -> None:
    """Twelve that would try one after the other would wait twelve times as long."""
    kept, times = Replays(), 0

    async def work() -> Response:
        nonlocal times
        times += 1
        await asyncio.sleep(0.01)
        if times == 1 and raised:
            raise Problem(503, "not now")
        return Response("not now", 503) if times == 1 else Response("done")

    calls = (kept.once("caller", "key", b"digest", work) for _ in range(4))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, Problem) or (one.status_code, raised) == (503, False) for one in found] == [True] * 4  # type: ignore[union-attr]
    assert times == 1
    assert (await kept.once("caller", "key", b"digest", work)).body == b"done"
    assert times == 2


async def test_one_given_up_is_not_waited_for_for_ever() -> None:
    kept, work, never = Replays(), Work(), asyncio.Event()

    async def hangs() -> Response:
        await never.wait()
        return Response()

    first = asyncio.create_task(kept.once("caller", "key", b"digest", hangs))
    await asyncio.sleep(0)
    second = asyncio.create_task(kept.once("caller", "key", b"digest", work))
    await asyncio.sleep(0)
    first.cancel()
    assert (await asyncio.wait_for(second, 5)).body == b"1"


async def test_one_that_stops_waiting_takes_nothing_from_others() -> None:
    kept, work = Replays(), Work()
    first, second, third = (asyncio.create_task(kept.once("caller", "key", b"digest", work)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    assert [(await one).body for one in (first, third)] == [b"1", b"1"]


async def test_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(replays.time, "monotonic", lambda: now[0])
    kept, work = Replays(seconds_max=10), Work()
    await kept.once("caller", "key", b"digest", work)
    now[0] += 9
    await kept.once("caller", "key", b"digest", work)
    assert work.times == 1
    now[0] += 1
    await kept.once("caller", "key", b"another digest", work)
    assert work.times == 2


@pytest.mark.parametrize(("limits", "size"), [({"answers_max": 3}, 1), ({"bytes_max": 40_000}, 10_000)])
async def test_so_many(limits: dict[str, int], size: int) -> None:
    kept, work = Replays(**limits), Work(size=size)
    for number in range(50):
        await kept.once("caller", str(number), b"digest", work)
    assert len(kept._entries) <= 4
    assert kept._bytes == sum(entry.size for entry in kept._entries.values()) <= 50_000
    await kept.once("caller", "49", b"digest", work)
    assert work.times == 50
    await kept.once("caller", "0", b"digest", work)
    assert work.times == 51
