"""S3 through a real S3 protocol server: listing, one etag or nothing, and what each refusal means."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rollup_engine.buckets import s3 as s3_module
from rollup_engine.buckets.compressed import CHUNK_BYTES
from rollup_engine.buckets.rows import rows
from rollup_engine.buckets.s3 import S3Store
from rollup_engine.buckets.store import Found, ObjectChanged, ObjectGone, open_store
from rollup_engine.errors import BrokerUnavailable, PartitionHalted, StoreRefused, StoreUnavailable
from tests.s3 import S3Server
from tests.unit.buckets.objects import compress


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A bucket of the test's own."""
    name = uuid4().hex
    s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second try by the client: tests of failures would wait for it."""
    monkeypatch.setitem(s3_module.CLIENT, "retries", {"total_max_attempts": 1})


async def listed(url: str, after: str = "") -> list[list[Found]]:
    store = open_store(url)
    try:
        return [page async for page in store.pages(after)]
    finally:
        await store.close()


async def read(url: str, name: str, etag: str) -> bytes:
    store = open_store(url)
    try:
        return await asyncio.to_thread(lambda: store.open(name, etag).read())
    finally:
        await store.close()


class TestListing:
    async def test_names_are_relative_and_in_order_and_what_is_hidden_is_left_out(
        self, s3: S3Server, bucket: str
    ) -> None:
        kept = ["a-b/x", "a.csv", "a/b.csv", "a/é?versionId=1", "a//b", "sp ace+%2F&.csv", "z", "ￂ", "😀"]
        hidden = ["", "_SUCCESS", "a/_temporary/0/x", ".hidden", "a/.part.csv", "folder/"]
        etags = {name: s3.put(bucket, f"p/q/{name}", name.encode()) for name in [*hidden, *reversed(kept)]}
        s3.put(bucket, "p/q-not-below-it", b"")
        for url in (f"s3://{bucket}/p/q", f"s3://{bucket}/p/q/"):
            (page,) = await listed(url)
            assert page == [Found(name, etags[name], len(name.encode())) for name in sorted(kept, key=str.encode)]

    async def test_a_bucket_without_prefix(self, s3: S3Server, bucket: str) -> None:
        etag = s3.put(bucket, "x", b"1")
        for url in (f"s3://{bucket}", f"s3://{bucket}/"):
            assert await listed(url) == [[Found("x", etag, 1)]]
            assert open_store(url).url == f"s3://{bucket}/"

    async def test_pages_begin_after_a_name_and_follow_each_other(
        self, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3_module, "PAGE_MAX", 4)
        names = [f"{number:02}" for number in range(10)]
        for name in [*names, "03.5/_a", "03.5/_b", "03.5/_c", "03.5/_d", "03.5/_e"]:
            s3.put(bucket, f"p/{name}", b"")
        pages = await listed(f"s3://{bucket}/p")
        assert [found.name for page in pages for found in page] == names
        assert all(0 < len(page) <= 4 for page in pages)
        assert [[found.name for found in page] for page in await listed(f"s3://{bucket}/p", "06")] == [
            ["07", "08", "09"]
        ]
        assert [found.name for page in await listed(f"s3://{bucket}/p", "055") for found in page] == names[6:]
        assert await listed(f"s3://{bucket}/p", "09") == []

    async def test_an_empty_prefix_has_no_page(self, bucket: str) -> None:
        assert await listed(f"s3://{bucket}/nothing/here") == []

    async def test_a_million_objects_take_no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With 20,000 of them: the peak is that of a page, wherever it is taken."""
        store = S3Store("bucket", "p")
        monkeypatch.setattr(store._files, "set_session", _Endless(20_000).session)
        count = 0
        tracemalloc.start()
        try:
            async for page in store.pages():
                count += len(page)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert count == 20_000
        assert peak < 2_000_000

    @pytest.mark.parametrize("second", ["a", "b"])
    async def test_a_store_that_lists_in_no_order_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, second: str
    ) -> None:
        store = S3Store("bucket", "")
        answer = {"IsTruncated": False, "Contents": [_entry("b"), _entry(second)]}
        monkeypatch.setattr(store, "_ask", lambda *_, **__: answer)
        with pytest.raises(StoreRefused, match=f"'{second}' came after 'b'"):
            [page async for page in store.pages()]


def _entry(key: str) -> dict[str, object]:
    return {"Key": key, "ETag": '"0"', "Size": 1}


class _Endless:
    """A client that knows `count` objects, and makes up each page as it is asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def session(self) -> _Endless:
        return self

    async def list_objects_v2(self, *, MaxKeys: int, ContinuationToken: str = "0", **_: Any) -> Any:  # noqa: N803
        first = int(ContinuationToken)
        last = min(first + MaxKeys, self._count)
        return {
            "Contents": [_entry(f"p/{number:020}") for number in range(first, last)],
            "IsTruncated": last < self._count,
            "NextContinuationToken": str(last),
        }


class TestReading:
    async def test_an_object_is_read_at_its_etag(self, s3: S3Server, bucket: str) -> None:
        content = bytes(range(256)) * 40_000  # several requests
        etag = s3.put(bucket, "p/x", content)
        store = open_store(f"s3://{bucket}/p")

        def parts() -> Iterator[bytes]:
            with store.open("x", etag) as stream:
                yield stream.read(7)
                yield stream.read()
                assert stream.read(1) == b""
                assert stream.seek(-3, 2) == len(content) - 3
                yield stream.read(100)
                stream.seek(1_000_000)
                yield stream.read(5)
                stream.seek(20_000_000)
                yield stream.read(5)

        first, rest, tail, amidst, beyond = await asyncio.to_thread(lambda: list(parts()))
        assert first + rest == content
        assert (tail, amidst, beyond) == (content[-3:], content[1_000_000:1_000_005], b"")
        assert s3.requests["GET"] <= 7  # three for the whole of it
        await store.close()

    async def test_a_small_object_costs_one_request(self, s3: S3Server, bucket: str) -> None:
        etag = s3.put(bucket, "x", b"{}\n" * 1000)
        store = open_store(f"s3://{bucket}")
        s3.requests.clear()
        (found,) = await asyncio.to_thread(lambda: list(rows("ndjson", store.open("x", etag), "x")))
        assert len(found) == 1000
        assert s3.requests == {"GET": 1}
        await store.close()

    async def test_an_empty_object_has_no_bytes(self, s3: S3Server, bucket: str) -> None:
        assert await read(f"s3://{bucket}", "x", s3.put(bucket, "x", b"")) == b""

    @pytest.mark.parametrize("content", [b"new", b""])
    @pytest.mark.parametrize("heeds_if_match", [True, False])
    async def test_another_object_under_its_name(
        self, s3: S3Server, bucket: str, content: bytes, heeds_if_match: bool
    ) -> None:
        etag = s3.put(bucket, "x", b"old")
        s3.put(bucket, "x", content)
        s3.heeds_if_match = heeds_if_match
        with pytest.raises(ObjectChanged):
            await read(f"s3://{bucket}", "x", etag)

    async def test_an_object_that_is_gone(self, s3: S3Server, bucket: str) -> None:
        etag = s3.put(bucket, "x", b"old")
        s3.delete(bucket, "x")
        store = open_store(f"s3://{bucket}")
        for ask in (lambda stream: stream.read(1), lambda stream: stream.seek(0, 2)):
            with pytest.raises(ObjectGone):
                await asyncio.to_thread(ask, store.open("x", etag))
        await store.close()

    @pytest.mark.parametrize(("change", "raised"), [("put", ObjectChanged), ("delete", ObjectGone)])
    async def test_a_change_while_it_is_read(
        self, s3: S3Server, bucket: str, change: str, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3_module, "BLOCK_BYTES", CHUNK_BYTES)
        line = b'{"id": "%09d"}\n'
        content = b"".join(line % number for number in range(3 * CHUNK_BYTES // len(line % 0)))
        etag = s3.put(bucket, "x", content)
        store = open_store(f"s3://{bucket}")

        def go() -> list[bytes]:
            batches = rows("ndjson", store.open("x", etag), "x")
            got = [row.value for row in next(batches)]
            s3.put(bucket, "x", content.upper()) if change == "put" else s3.delete(bucket, "x")
            with pytest.raises(raised):
                got.extend(row.value for batch in batches for row in batch)
            return got

        got = await asyncio.to_thread(go)
        assert got == content.splitlines()[: len(got)]
        assert 50_000 < len(got) < 150_000
        await store.close()

    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    async def test_compressed_objects(self, s3: S3Server, bucket: str, suffix: str) -> None:
        content = b"".join(b'{"id": "%d"}\n' % (number * 7919) for number in range(100_000))
        etag = s3.put(bucket, f"x{suffix}", compress(content, suffix, parts=3))
        store = open_store(f"s3://{bucket}")
        batches = await asyncio.to_thread(lambda: list(rows("ndjson", store.open(f"x{suffix}", etag), f"x{suffix}")))
        assert [row.value for batch in batches for row in batch] == content.splitlines()
        await store.close()


class TestTrouble:
    @pytest.mark.parametrize(
        ("status", "code"),
        [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (400, "RequestTimeout")],
    )
    @pytest.mark.usefixtures("once")
    async def test_what_may_pass_is_for_the_caller_to_try_again(
        self, s3: S3Server, bucket: str, status: int, code: str
    ) -> None:
        etag = s3.put(bucket, "x", b"1")
        s3.fault = lambda method, path: (status, code)
        with pytest.raises(StoreUnavailable, match=f"{status}.*It is tried again"):
            await listed(f"s3://{bucket}")
        with pytest.raises(BrokerUnavailable):  # so every stage tries again
            await read(f"s3://{bucket}", "x", etag)
        s3.fault = None
        assert await read(f"s3://{bucket}", "x", etag) == b"1"

    async def test_one_throttled_request_is_not_even_noticed(self, s3: S3Server, bucket: str) -> None:
        etag = s3.put(bucket, "x", b"1")
        left = [1]

        def throttle(method: str, path: str) -> tuple[int, str] | None:
            left[0] -= 1
            return (503, "SlowDown") if left[0] >= 0 else None

        s3.fault = throttle
        assert await read(f"s3://{bucket}", "x", etag) == b"1"
        assert left[0] == -1

    @pytest.mark.parametrize("status", [404, 200])
    async def test_a_proxy_s_page_is_no_word_of_s3(self, s3: S3Server, bucket: str, status: int) -> None:
        """An outage: were it taken for a deleted object, that would never be read; for an empty listing, none would."""
        etag = s3.put(bucket, "x", b"1")
        store = open_store(f"s3://{bucket}")
        s3.fault = lambda method, path: (status, "<html>page not found</html>")
        with pytest.raises(
            StoreRefused if status == 404 else StoreUnavailable, match=r"AWS_ENDPOINT_URL|knows no such"
        ):
            [page async for page in store.pages()]
        for ask in (lambda stream: stream.read(1), lambda stream: stream.seek(0, 2)):
            with pytest.raises(StoreUnavailable, match=r"AWS_ENDPOINT_URL.*It is tried again"):
                await asyncio.to_thread(ask, store.open("x", etag))
        s3.fault = None
        assert await asyncio.to_thread(store.open("x", etag).read) == b"1"
        await store.close()

    async def test_a_listing_that_is_not_found_is_refused_whatever_it_calls_it(self, s3: S3Server, bucket: str) -> None:
        s3.fault = lambda method, path: (404, "NoSuchKey")
        with pytest.raises(StoreRefused, match=r"knows no such bucket \(404 NoSuchKey"):
            await listed(f"s3://{bucket}/p")

    @pytest.mark.usefixtures("once")
    async def test_nobody_listens(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1"):
            await listed("s3://bucket")

    async def test_no_such_bucket(self, s3: S3Server) -> None:
        with pytest.raises(StoreRefused, match="there is no bucket not-there") as refused:
            await listed("s3://not-there/p")
        assert "Create it" in refused.value.remedy
        assert isinstance(refused.value, PartitionHalted)  # so the partition says so, and stands still
        with pytest.raises(StoreRefused, match="there is no bucket"):
            await read("s3://not-there/p", "x", "0")

    @pytest.mark.parametrize(
        ("status", "code", "said"),
        [
            (403, "AccessDenied", "s3:GetObject"),
            (403, "InvalidAccessKeyId", "AWS_SECRET_ACCESS_KEY"),
            (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", "AWS_SESSION_TOKEN"),
            (403, "InvalidObjectState", "Mend what this names"),
            (400, "AuthorizationHeaderMalformed", "A new region"),
        ],
    )
    async def test_what_will_not_pass_says_what_to_do(
        self, s3: S3Server, bucket: str, status: int, code: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forgotten: list[str] = []
        monkeypatch.setattr(S3Store, "_forget_credentials", lambda store: forgotten.append(store.url))
        s3.fault = lambda method, path: (status, code)
        store = open_store(f"s3://{bucket}/p")
        with pytest.raises(StoreRefused, match=code) as refused:
            [page async for page in store.pages()]
        assert said in refused.value.remedy
        with pytest.raises(StoreRefused, match=f"s3://{bucket}/p/x.*{code}"):
            await asyncio.to_thread(store.open("x", "0").read)
        assert len(forgotten) == (2 if "AWS_" in said else 0)  # so that a new key is found
        await store.close()

    async def test_credentials_that_the_server_does_not_know(self, s3: S3Server, bucket: str) -> None:
        s3.check_credentials(True)
        try:
            with pytest.raises(StoreRefused, match="the credentials are refused"):
                await listed(f"s3://{bucket}")
        finally:
            s3.check_credentials(False)

    async def test_no_credentials_until_there_are(
        self, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "credentials"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        s3_module._session.cache_clear()  # as in a new process
        etag = s3.put(bucket, "x", b"1")
        store = open_store(f"s3://{bucket}")
        with pytest.raises(StoreRefused, match="there are no credentials"):
            [page async for page in store.pages()]
        file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
        assert [page async for page in store.pages()] == [[Found("x", etag, 1)]]
        await store.close()

    async def test_a_name_that_is_no_bucket(self, s3: S3Server) -> None:
        with pytest.raises(StoreRefused, match="cannot be asked: Parameter validation failed"):
            await listed("s3://No Bucket!/p")
