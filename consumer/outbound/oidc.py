"""`CALLBACK_AUTH=oidc`: a Google ID token for the very origin that is called.

A token is good at its audience only. So each origin gets one of its own: a host that a message chose cannot
show the token it was sent to the operator's backend, nor can one read off plain http be used over https.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google.auth.exceptions
import google.auth.jwt
import google.auth.transport.requests
import httpx
import requests
import structlog
from google.oauth2 import id_token

from consumer.errors import CallbackFailed
from consumer.outbound.callback import Signer
from consumer.redaction import redacted
from contracts.failure import FailureClass

REFRESH_BEFORE = 600.0
"""Seconds before its end at which a new token is asked for; the old one serves meanwhile."""
USABLE_UNTIL = 60.0
"""Seconds before its end at which a token is used no more: clocks differ, and the call takes a while."""
TRY_AGAIN = 30.0
"""Seconds before it is asked for again, when that failed and the old one still serves."""
FETCH_TIMEOUT = 20.0
"""Seconds a token may take: the metadata server answers in milliseconds, or is retried."""
MAX_ORIGINS = 256
"""Tokens that are kept; with a wildcard, messages choose the origins."""
_REQUEST_TIMEOUT = 5.0
_DEFAULT_PORTS = {"http": 80, "https": 443}

log = structlog.get_logger()

Fetch = Callable[[str], str]
"""From an audience to an ID token for it; blocks."""


@dataclass(slots=True)
class _Token:
    value: str
    ends: float
    refresh_at: float


def oidc_signer(fetch: Fetch | None = None, *, clock: Callable[[], float] = time.time) -> Signer:
    """Return a signer whose tokens name the called origin as their audience, each kept for most of its life.

    Args:
        fetch: where tokens come from; by default whatever identity Google's library finds.
        clock: the time of day, which the tokens' end is told in.
    """
    tokens = IdTokens(fetch or fetch_token, clock)

    async def sign(url: str, body: bytes) -> Mapping[str, str]:
        del body
        return {"Authorization": f"Bearer {await tokens.of(audience_of(url))}"}

    return sign


def audience_of(url: str) -> str:
    """Return the origin of `url`, as a backend would write its own: no default port, no path."""
    parts = httpx.URL(url)
    host = parts.raw_host.decode("ascii")
    shown = f"[{host}]" if ":" in host else host
    is_default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return f"{parts.scheme}://{shown}" if is_default else f"{parts.scheme}://{shown}:{parts.port}"


def fetch_token(audience: str) -> str:
    """Ask the metadata server (Workload Identity), or the key file that Google's library is told of.

    Raises:
        google.auth.exceptions.GoogleAuthError: there is no identity, or no token for it.
    """
    with _Session() as session:
        request = google.auth.transport.requests.Request(session)
        return str(id_token.fetch_id_token(request, audience))  # type: ignore[no-untyped-call]


class _Session(requests.Session):
    """No proxy of the environment sees a token; and Google's own limit is two minutes for some requests."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def request(self, *args: Any, **options: Any) -> requests.Response:
        return super().request(*args, **{**options, "timeout": _REQUEST_TIMEOUT})


class IdTokens:
    """Tokens by audience. Of all who want the same one, the first fetches it."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._kept: dict[str, _Token] = {}
        self._fetching: dict[str, asyncio.Task[_Token]] = {}
        # Of its own: an identity service that hangs must not take the threads of the steps.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="id-token")

    async def of(self, audience: str) -> str:
        """Return a token for `audience`.

        Raises:
            CallbackFailed: configuration, if this worker has no identity; transient, if the service that
                knows it is away.
        """
        kept, now = self._kept.get(audience), self._clock()
        if kept is not None and now < kept.refresh_at:
            return kept.value
        try:
            return (await self._fetched(audience)).value
        except CallbackFailed as error:
            if kept is None or now >= kept.ends - USABLE_UNTIL:
                raise
            log.warning("id_token_not_renewed", audience=audience, error=str(error))
            kept.refresh_at = now + TRY_AGAIN
            return kept.value

    async def _fetched(self, audience: str) -> _Token:
        task = self._fetching.get(audience)
        if task is None:
            task = asyncio.create_task(self._get(audience))
            self._fetching[audience] = task
            task.add_done_callback(lambda done: self._ended(audience, done))
        return await asyncio.shield(task)  # one caller's end is no reason to start again for the others

    def _ended(self, audience: str, task: asyncio.Task[_Token]) -> None:
        del self._fetching[audience]
        if not task.cancelled():
            task.exception()  # who waited has it; if nobody did any more, it is not worth a warning

    async def _get(self, audience: str) -> _Token:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, audience)
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                value = await asked
            token = self._read(value, audience)
        except TimeoutError as error:
            raise CallbackFailed(
                f"no ID token for {audience} within {FETCH_TIMEOUT:g} s", FailureClass.TRANSIENT, outage=True
            ) from error
        except google.auth.exceptions.GoogleAuthError as error:
            is_away = isinstance(error, google.auth.exceptions.TransportError) or error.retryable
            raise CallbackFailed(
                f"no ID token for {audience}: {redacted(str(error))[:1000]}",
                FailureClass.TRANSIENT if is_away else FailureClass.CONFIGURATION,
                outage=is_away,
            ) from error
        if len(self._kept) >= MAX_ORIGINS:
            del self._kept[min(self._kept, key=lambda name: self._kept[name].ends)]
        self._kept[audience] = token
        return token

    def _read(self, value: str, audience: str) -> _Token:
        """Return the token with its end: the metadata server may hand out one that is nearly over."""
        try:
            ends = float(google.auth.jwt.decode(value, verify=False)["exp"])  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError) as error:
            raise CallbackFailed(
                f"what came for {audience} is no ID token with an end", FailureClass.CONFIGURATION
            ) from error
        soon = max(ends - REFRESH_BEFORE, self._clock() + TRY_AGAIN)
        return _Token(value, ends, refresh_at=min(soon, ends - USABLE_UNTIL))
