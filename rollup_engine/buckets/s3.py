"""Objects of an S3 bucket under one prefix, through s3fs's client: also of MinIO, R2, Ceph and others of its protocol.

Owns: requests, and which of S3's answers mean changed, gone, refused or try again. Must never: keep a listing (s3fs's
`ls` and `find` do: a million objects, in memory), or return bytes of another etag.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import cache
from typing import Any, BinaryIO, cast

import aiohttp
from aiobotocore.session import AioSession
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync
from s3fs import S3FileSystem

from rollup_engine.buckets.names import is_hidden, storable
from rollup_engine.buckets.store import PAGE_MAX, Found, ObjectChanged, ObjectGone
from rollup_engine.errors import StoreRefused, StoreUnavailable

BLOCK_BYTES = 4 << 20  # per request, and held per open object
CLIENT = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "max_pool_connections": 32,
    "retries": {"mode": "standard", "total_max_attempts": 3},  # then the caller waits, and tries again
}
CUT_OFF = (boto.IncompleteReadError, ResponseParserError)  # an answer that ends too early, or is none of S3
TRY_AGAIN = {"SlowDown", "RequestTimeout", "RequestLimitExceeded", "Throttling", "ThrottlingException"}
BAD_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
CHECK_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, AWS_PROFILE) to a key that this endpoint"
    " knows, and start the engine again; a new key in AWS's files is found by itself."
)


@cache
def _session() -> AioSession:
    """One for the process, for it holds what botocore knows of S3: 15 MB."""
    return AioSession()


def _client() -> S3FileSystem:
    return S3FileSystem(session=_session(), config_kwargs=CLIENT, skip_instance_cache=True)


class S3Store:
    """One prefix of one bucket. See `store.Store`. Requests run on fsspec's own event loop, whatever thread asks."""

    unsettled = False  # an object appears in S3 once it is whole

    def __init__(self, bucket: str, prefix: str) -> None:
        """`prefix` without a '/' at either end; it means a folder: objects below `prefix/`."""
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{self._prefix}"
        self._files = _client()

    async def pages(self, after: str = "") -> AsyncIterator[list[Found]]:
        where = {"StartAfter": self._prefix + after}
        while where:
            answer = await asyncio.to_thread(self._list, where)
            found, after = self._found(answer.get("Contents", ()), after)
            if found:
                yield found
            where = {"ContinuationToken": answer["NextContinuationToken"]} if answer["IsTruncated"] else {}

    def open(self, name: str, etag: str) -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_Object(self, name, etag), BLOCK_BYTES))

    async def close(self) -> None:
        client, self._files._s3 = self._files._s3, None
        if client is not None:
            await asyncio.to_thread(sync, self._files.loop, client.close)

    def _list(self, where: dict[str, str]) -> Any:
        try:
            answer = self._ask("list_objects_v2", Prefix=self._prefix, MaxKeys=PAGE_MAX, **where)
        except (ObjectGone, ObjectChanged, _NotFound) as error:
            raise StoreRefused(
                f"what answers for {self.url} knows no such bucket ({_said(error.__cause__)})",
                "Correct AWS_ENDPOINT_URL, `source.bucket` or the proxy before the store; it is tried again by itself.",
            ) from error
        if "IsTruncated" not in answer:  # a page of something else: it is no listing without objects
            raise _strange(self.url, "listing")
        return answer

    def _found(self, entries: Sequence[Any], after: str) -> tuple[list[Found], str]:
        """What of a page's entries is no hidden object, and the last name among all."""
        found = []
        for entry in entries:
            name = entry["Key"][len(self._prefix) :]
            if after and name <= after:
                raise StoreRefused(
                    f"{self.url} lists its objects in no order: {name!r} came after {after!r}",
                    "Use a store that lists by name, as S3's general purpose buckets do.",
                )
            after = name
            if not is_hidden(name):
                found.append(Found(storable(name, self.url), entry["ETag"].strip('"'), entry["Size"]))
        return found, after

    def read(self, name: str, etag: str, start: int, end: int) -> tuple[bytes, int]:
        """Bytes [start, end) of the object, fewer at its end, and its size. Blocks."""

        async def get(client: Any, **where: Any) -> tuple[bytes, int]:
            answer = await client.get_object(**where, IfMatch=f'"{etag}"', Range=f"bytes={start}-{end - 1}")
            async with answer["Body"] as body:
                self._check(answer, name, etag)
                if "ContentRange" not in answer:
                    raise _strange(self.url + name, "range of bytes")
                size = int(answer["ContentRange"].rpartition("/")[2])
                return await body.read(), size

        try:
            data, size = self._run(get, name, Key=self._prefix + name)
        except _PastTheEnd:
            answer = self._ask("head_object", name, Key=self._prefix + name)
            self._check(answer, name, etag)
            return b"", int(answer["ContentLength"])
        return data, size

    def size(self, name: str, etag: str) -> int:
        """The object's size in bytes. Blocks. A first byte is asked for: what HEAD answers has no room to say why."""
        return self.read(name, etag, 0, 1)[1]

    def _check(self, answer: Any, name: str, etag: str) -> None:
        """Some servers pass over If-Match."""
        if "ETag" not in answer:
            raise _strange(self.url + name, "etag")
        if answer["ETag"].strip('"') != etag:
            raise ObjectChanged(self.url + name)

    def _ask(self, method: str, name: str = "", **arguments: Any) -> Any:
        async def ask(client: Any, **arguments: Any) -> Any:
            return await getattr(client, method)(**arguments)

        return self._run(ask, name, **arguments)

    def _run(self, request: Callable[..., Coroutine[Any, Any, Any]], name: str, **arguments: Any) -> Any:
        async def run() -> Any:
            return await request(await self._files.set_session(), Bucket=self._bucket, **arguments)

        try:
            return sync(self._files.loop, run)
        except boto.ClientError as error:
            raise self._verdict(error, self.url + name) from error
        except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
            self._forget_credentials()
            raise StoreRefused(f"there are no credentials for {self.url} ({error})", CHECK_CREDENTIALS) from error
        except (boto.HTTPClientError, boto.ConnectionError, aiohttp.ClientError, OSError, *CUT_OFF) as error:
            raise StoreUnavailable(
                f"{self.url} does not answer ({error}). Check the network, and AWS_ENDPOINT_URL where it is set."
            ) from error
        except (boto.BotoCoreError, ValueError) as error:
            raise StoreRefused(
                f"{self.url} cannot be asked: {error}",
                "Correct the bucket's name or the AWS settings; it is tried again by itself.",
            ) from error

    def _forget_credentials(self) -> None:
        """Look for them anew with the next request: a key was replaced, or AWS's metadata service was away."""
        _session.cache_clear()
        self._files = _client()

    def _verdict(self, error: boto.ClientError, url: str) -> Exception:
        """What S3's answer means. Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        code = error.response["Error"].get("Code", "")
        said = _said(error)
        if code == "NoSuchBucket":
            return StoreRefused(
                f"there is no bucket {self._bucket} ({said})",
                "Create it, or correct `source.bucket` and AWS_ENDPOINT_URL; it is tried again by itself.",
            )
        if code == "NoSuchKey":
            return ObjectGone(url)
        if status == 404:
            return _NotFound(
                f"{url} is not found, and not by the word of S3 ({said}). Check AWS_ENDPOINT_URL, and the"
                " proxy before the store. It is tried again."
            )
        if status == 412:
            return ObjectChanged(url)
        if status == 416:
            return _PastTheEnd()
        if status >= 500 or status == 429 or code in TRY_AGAIN:
            return StoreUnavailable(f"{url} does not answer for now ({said}). It is tried again.")
        if code in BAD_CREDENTIALS:
            self._forget_credentials()
            return StoreRefused(f"{url}: the credentials are refused ({said})", CHECK_CREDENTIALS)
        if code in ("AccessDenied", "403"):  # an answer to HEAD has no code of its own
            return StoreRefused(
                f"no permission to read {url} ({said})",
                "Allow the engine s3:ListBucket on the bucket and s3:GetObject on its objects;"
                " it is tried again by itself.",
            )
        return StoreRefused(
            f"{url} cannot be read ({said})",
            "Mend what this names: it is tried again by itself. A new region or endpoint takes a new start.",
        )


def _said(error: Any) -> str:
    answer = error.response
    status, message = answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"].get("Message", "")
    return f"{status} {answer['Error'].get('Code', '')}: {message}".rstrip(": ")


class _NotFound(StoreUnavailable):
    """A 404 that does not say what there is none of: a proxy's, or another service's, and an answer to HEAD."""


def _strange(url: str, wanted: str) -> StoreUnavailable:
    """For an answer of 200 that is not S3's: a proxy's page, as a rule."""
    return StoreUnavailable(
        f"what answers for {url} gives no {wanted}. Check AWS_ENDPOINT_URL, and the proxy before the store."
        " It is tried again."
    )


class _PastTheEnd(Exception):
    """A range that begins where the object has no bytes; also any range of an empty one."""


class _Object(io.RawIOBase):
    """One object at one etag, a request per read."""

    def __init__(self, store: S3Store, name: str, etag: str) -> None:
        self._store, self._name, self._etag = store, name, etag
        self._position = 0
        self._size: int | None = None  # known with the first answer

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            if self._size is None:
                self._size = self._store.size(self._name, self._etag)
            offset += self._size
        elif whence == io.SEEK_CUR:
            offset += self._position
        self._position = max(0, offset)
        return self._position

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))  # the inherited one asks for 8 KiB at a time

    def readinto(self, buffer: Any) -> int:
        start, end = self._position, self._position + min(len(buffer), BLOCK_BYTES)
        if start == end or (self._size is not None and start >= self._size):
            return 0
        data, self._size = self._store.read(self._name, self._etag, start, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
