"""The backend's callback: one POST per result, its answer sorted into the failure classes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

import httpx
from pydantic import BaseModel

from consumer.errors import CallbackFailed
from consumer.jobs import Job
from consumer.ops.tracing import note, trace_parent
from consumer.outbound.bodies import error_body, legacy_body, results_body
from consumer.outbound.hosts import AllowedHosts, read_url
from consumer.redaction import redacted
from contracts import __version__
from contracts.failure import FailureClass
from contracts.result import ProcessingResult

MAX_ANSWER = 64 * 1024
MAX_QUOTED = 300
"""Characters of an answer that an error repeats."""
MAX_RETRY_AFTER = 300.0
_PATH = "/api/v1/processing-callback"

Signer = Callable[[str, bytes], Awaitable[Mapping[str, str]]]
"""From url and body to the headers that say who we are; their values are secrets."""


async def nothing_to_check() -> None:
    """Let a callback go as soon as it is ready."""


async def unsigned(url: str, body: bytes) -> Mapping[str, str]:
    """`CALLBACK_AUTH=none`."""
    del url, body
    return {}


def hmac_signer(key: bytes, clock: Callable[[], float] = time.time) -> Signer:
    """`CALLBACK_AUTH=hmac`: HMAC-SHA256 over timestamp, a dot, and the body."""

    async def sign(url: str, body: bytes) -> Mapping[str, str]:
        del url
        timestamp = str(int(clock()))
        # In a thread: a result of many megabytes takes a while, and the lock is released for it.
        digest = await asyncio.to_thread(hmac.digest, key, timestamp.encode() + b"." + body, hashlib.sha256)
        return {"X-MLWorker-Timestamp": timestamp, "X-MLWorker-Signature": f"sha256={digest.hex()}"}

    return sign


@dataclass(frozen=True, slots=True)
class Backend:
    """Calls the backend back. Follows no redirect, and reads at most 64 kB of an answer."""

    transport: httpx.AsyncBaseTransport
    """A `PinnedTransport`: it checks addresses at the moment of connecting."""
    timeout: float
    """Seconds for a whole call, a slow answer included."""
    base_url: str | None
    hosts: AllowedHosts
    sign: Signer = unsigned

    async def deliver(
        self, job: Job, result: ProcessingResult, check: Callable[[], Awaitable[None]] = nothing_to_check
    ) -> None:
        """POST the result, or its error, once.

        Args:
            job: whose callback it is.
            result: what is told.
            check: asked when all is ready to be sent, which may take as long as getting a token does; what
                it raises keeps the callback from being made.

        Raises:
            CallbackFailed: the backend did not accept it; its class says what that means.
        """
        event: Literal["result", "error"] = "error" if result.status == "failed" else "result"
        url = self.url(job, event)
        if url is None:
            return
        body, headers = self._body(job, result, event, url), self._headers(job, result, event)
        await self._post(url, body, headers, check)

    def url(self, job: Job, event: Literal["result", "error"]) -> str | None:
        """Return where the callback goes: the message's own url or the backend's; None for nowhere.

        Errors go to the `/error` sibling of a url that ends in `/results`.
        """
        if not job.wants_callback:
            return None
        ending = "/error" if event == "error" else "/results"
        if job.callback_url is None:
            return f"{self.base_url.rstrip('/')}{_PATH}{ending}" if self.base_url else None
        url = job.callback_url
        # Also of its path: `https://results` ends in it, and is a host.
        if event == "error" and url.endswith("/results") and _path_of(url).endswith("/results"):
            return url.removesuffix("/results") + ending
        return url

    def check(self, job: Job) -> None:
        """Return if the job's callback may be made: asked before anything is run for it.

        Raises:
            CallbackFailed: permanent, naming what is wrong with the url.
        """
        url = self.url(job, "result")
        if url is not None:
            self.hosts.check(url)

    def is_everybodys(self, job: Job) -> bool:
        """Tell whether the job's callbacks go where most others' go too: to the backend itself."""
        return job.callback_url is None or (
            self.base_url is not None and _host(job.callback_url) == _host(self.base_url)
        )

    def destination(self, job: Job) -> str:
        """Return the name of the peer that the job's callbacks share with others."""
        return f"callback {_host(self.url(job, 'result') or '')}".rstrip()

    @staticmethod
    def _body(job: Job, result: ProcessingResult, event: str, url: str) -> BaseModel:
        if url.endswith("/ml/callback"):
            return legacy_body(result, job.pipeline_name)
        return error_body(result) if event == "error" else results_body(result, job.pipeline_name)

    @staticmethod
    def _headers(job: Job, result: ProcessingResult, event: str) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"mlworker/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # an answer is read as it comes: in parts, for people
            "X-Tenant-ID": job.ids.tenant_id,
            "X-MLWorker-Event": event,
            "Idempotency-Key": result.result_id,
        }
        if parent := trace_parent() or job.trace_parent:
            headers["traceparent"] = parent
        return headers

    async def _post(
        self, url: str, body: BaseModel, headers: dict[str, str], check: Callable[[], Awaitable[None]]
    ) -> None:
        content = body.model_dump_json(by_alias=True).encode()
        host = self.hosts.check(url)
        note(host=host)
        proof = await self.sign(url, content)
        await check()
        response, answer = None, ""
        try:
            request = httpx.Request(
                "POST",
                read_url(url),
                content=content,
                headers={**headers, **proof},
                extensions={"timeout": {"connect": self.timeout}},  # shared out among a name's addresses
            )
            async with asyncio.timeout(self.timeout):
                response = await self.transport.handle_async_request(request)
                try:
                    answer = await _read_some(response)
                finally:
                    await response.aclose()
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise CallbackFailed(f"{host}: {error}", FailureClass.PERMANENT) from error
        except (TimeoutError, httpx.TransportError, httpx.StreamError) as error:
            if response is None:
                why = str(error) or f"no answer within {self.timeout} s"
                failure_class = _class_of_no_answer(error)
                raise CallbackFailed(
                    f"{host}: {type(error).__name__}: {why}", failure_class, outage=True
                ) from error
        note(status=response.status_code)
        # The status is the answer, whatever became of the rest of it. It may repeat what it was sent.
        check_answer(host, response, lambda: redacted(answer, _secrets(url, proof))[:MAX_QUOTED])


def _host(url: str) -> str:
    try:
        return read_url(url).raw_host.decode("ascii").lower()
    except (httpx.InvalidURL, UnicodeError):
        return ""  # `deliver` says what is wrong with it


async def _read_some(response: httpx.Response) -> str:
    """Return the start of the answer, never more than we promised to read."""
    answer = b""
    async for chunk in response.aiter_raw():
        answer += chunk
        if len(answer) >= MAX_ANSWER:
            break
    return answer[:MAX_ANSWER].decode("utf-8", "replace")


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _secrets(url: str, proof: Mapping[str, str]) -> Iterator[str]:
    """Yield what an answer may repeat and nobody else should see: our signature, and the url's query."""
    for value in proof.values():
        if not value.isdecimal():  # the time is none
            yield value
            yield value.removeprefix("Bearer ").removeprefix("sha256=")
    query = read_url(url).query.decode("ascii")
    yield query
    for _, value in parse_qsl(query):
        yield value


def check_answer(host: str, response: httpx.Response, quoted: Callable[[], str]) -> None:
    """Return if the backend accepted the callback: 2xx, or 409 for one it already has.

    Args:
        host: that answered.
        response: its answer.
        quoted: asked, if it did not accept it, for what of its answer may be repeated.

    Raises:
        CallbackFailed: with the class that the status stands for.
    """
    status = response.status_code
    if response.is_success or status == httpx.codes.CONFLICT:
        return
    failure_class, outage = _class_of(status)
    raise CallbackFailed(
        f"{host} answered {status}: {quoted()}",
        failure_class,
        outage=outage,
        retry_after=_retry_after(response.headers.get("Retry-After")),
    )


def _class_of_no_answer(error: BaseException) -> FailureClass:
    """A certificate that has expired, or is another's, does not mend itself; all else may."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return FailureClass.TRANSIENT if cause is None else FailureClass.CONFIGURATION


def _class_of(status: int) -> tuple[FailureClass, bool]:
    match status:
        case 404:
            return FailureClass.NOT_FOUND, False
        case 401 | 403 | 405:
            return FailureClass.CONFIGURATION, False
        case 502 | 503 | 504:
            return FailureClass.TRANSIENT, True
        case 408 | 425 | 429:
            return FailureClass.TRANSIENT, False
        case _ if 300 <= status < 400:
            return FailureClass.CONFIGURATION, False
        case _ if status >= 500:
            return FailureClass.TRANSIENT, False
        case _:
            return FailureClass.PERMANENT, False


def _retry_after(value: str | None) -> float | None:
    """Return the seconds a `Retry-After` asks for, in either of its forms, at most `MAX_RETRY_AFTER`."""
    if value is None:
        return None
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER)
    try:
        wait = parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER)
