"""A small backend for local mode: takes callbacks as the real one does, and shows them on a page.

It de-duplicates by `Idempotency-Key`, as backends are asked to; a test can let it be away for a while.
"""

from __future__ import annotations

import html
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from types import TracebackType
from typing import Literal, TypeAlias
from uuid import UUID, uuid4

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from consumer.ops.health import serving
from contracts.callback import ErrorCallback, LegacyCallback, ResultsCallback, SessionStatus

Body: TypeAlias = ResultsCallback | ErrorCallback | LegacyCallback
Event: TypeAlias = Literal["result", "error"]
Pictures: TypeAlias = Callable[[str, UUID], Awaitable[bytes | None]]
"""From tenant and image to the annotated picture (JPEG), if there is one."""
Publish: TypeAlias = Callable[[bytes], Awaitable[str]]
"""Publishes a request and returns the message's id."""

CALLBACKS = "/api/v1/processing-callback"
LEGACY = "/api/v1/ml/callback"


@dataclass
class Callback:
    """A callback that was accepted; sent again it only counts as a duplicate."""

    key: str
    event: Event
    tenant_id: str
    body: Body
    received_at: datetime
    duplicates: int = 0


@dataclass
class Outage(AbstractContextManager["Outage"]):
    """Answers `status` to every callback until it is lifted, its time is over, or it has hit often enough."""

    status: int
    until: float | None
    times: int | None
    retry_after: int | None
    is_applied: bool
    hits: int = 0
    _is_lifted: bool = field(default=False, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether callbacks are answered as usual again."""
        is_late = self.until is not None and time.monotonic() >= self.until
        return self._is_lifted or is_late or (self.times is not None and self.hits >= self.times)

    def lift(self) -> None:
        """End it."""
        self._is_lifted = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lift()


class SmallBackend:
    """Receives callbacks and remembers them in the order they came.

    Args:
        pictures: finds annotated pictures for the page.
        publish: what `POST /publish` does with a request.
        note: a line for the page's head, such as where photos are dropped; plain text.
    """

    def __init__(
        self, pictures: Pictures | None = None, publish: Publish | None = None, note: str = ""
    ) -> None:
        self._pictures = pictures
        self._publish = publish
        self._note = note
        self._callbacks: dict[tuple[str, Event], Callback] = {}
        self._outage: Outage | None = None
        self._started = uuid4().hex
        self.refused: list[str] = []
        """Why callbacks were answered with 400, in the order they came."""
        self.requests = 0
        """Callbacks that arrived, whatever became of them."""

    @property
    def callbacks(self) -> list[Callback]:
        """What was accepted, each key and event once."""
        return list(self._callbacks.values())

    @property
    def duplicates(self) -> int:
        """How many callbacks had been accepted before."""
        return sum(callback.duplicates for callback in self._callbacks.values())

    def outage(
        self,
        status: int = 503,
        *,
        seconds: float | None = None,
        times: int | None = None,
        retry_after: int | None = None,
        applied: bool = False,
    ) -> Outage:
        """Answer callbacks with `status` for a while; replaces an earlier outage.

        Args:
            status: of the answers.
            seconds: how long; None until it is lifted.
            times: how many callbacks are hit; None for all.
            retry_after: seconds to say in the header `Retry-After`.
            applied: callbacks take effect all the same, as when only the answer is lost.
        """
        until = None if seconds is None else time.monotonic() + seconds
        self._outage = Outage(status, until, times, retry_after, applied)
        return self._outage

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve while the context lasts, and give the base url.

        Raises:
            OSError: the port is taken.
        """
        async with serving(self.app(), host, port) as bound:
            yield f"http://{host}:{bound}"

    def app(self) -> Starlette:
        """Return the HTTP application."""
        return Starlette(
            routes=[
                Route(f"{CALLBACKS}/results", self._callback("result", ResultsCallback), methods=["POST"]),
                Route(f"{CALLBACKS}/error", self._callback("error", ErrorCallback), methods=["POST"]),
                Route(LEGACY, self._callback("result", LegacyCallback), methods=["POST"]),
                Route("/", self._page),
                Route("/callbacks", self._list),
                Route("/pictures/{tenant_id}/{image_id:uuid}.jpg", self._picture),
                Route("/publish", self._publish_request, methods=["POST"]),
            ]
        )

    # ------------------------------------------------------------------ the backend's own endpoints

    def _callback(self, event: Event, contract: type[Body]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self.requests += 1
            content = await request.body()
            outage = self._outage
            if outage is not None and not outage.is_over:
                outage.hits += 1
                if outage.is_applied:
                    self._take(event, contract, content, request)
                headers = {} if outage.retry_after is None else {"Retry-After": str(outage.retry_after)}
                return JSONResponse({"message": "scripted"}, outage.status, headers)
            return self._take(event, contract, content, request)

        return answer

    def _take(self, event: Event, contract: type[Body], content: bytes, request: Request) -> Response:
        tenant_id = request.headers.get("X-Tenant-ID")
        if not tenant_id:
            return self._refuse("X-Tenant-ID: the header is missing")
        try:
            body = contract.model_validate_json(content)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False, include_context=False)
            return self._refuse(
                "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details)
            )
        # The older url takes both kinds of news; the header tells them apart.
        if request.headers.get("X-MLWorker-Event") == "error":
            event = "error"
        key = request.headers.get("Idempotency-Key") or f"{event}/{body.session_id}/{body.image_id}"
        known = self._callbacks.get((key, event))
        if known is not None:
            known.duplicates += 1
        else:
            now = datetime.now(UTC)
            self._callbacks[key, event] = Callback(key, event, tenant_id, body, now)
        return Response(
            self.status_of(body.session_id).model_dump_json(by_alias=True), media_type="application/json"
        )

    def status_of(self, session_id: UUID) -> SessionStatus:
        """Return a session's state; its photos are those that were heard of."""
        heard = [callback for callback in self.callbacks if callback.body.session_id == session_id]
        images = {callback.body.image_id for callback in heard}
        done = {callback.body.image_id for callback in heard if callback.event == "result"}
        is_failed = any(callback.event == "error" for callback in heard)
        return SessionStatus(
            session_id=session_id,
            status="FAILED" if is_failed else "COMPLETED",
            total_images=len(images),
            processed_images=len(done),
            progress=round(100 * len(done) / len(images), 2) if images else 0.0,
        )

    def _refuse(self, reason: str) -> Response:
        self.refused.append(reason)
        return JSONResponse({"message": reason}, 400)

    # ------------------------------------------------------------------ for people and their tools

    async def _page(self, request: Request) -> Response:
        del request
        page = files("consumer.local").joinpath("pages/backend.html").read_text()
        return HTMLResponse(page.replace("{{note}}", html.escape(self._note)))

    async def _list(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        shown = self.callbacks[int(since) if since.isdecimal() else 0 :]
        content = {
            "started": self._started,
            "effective": len(self._callbacks),
            "duplicates": self.duplicates,
            "callbacks": [_as_json(callback) for callback in shown],
        }
        return Response(orjson.dumps(content), media_type="application/json")

    async def _picture(self, request: Request) -> Response:
        find = self._pictures
        image_id: UUID = request.path_params["image_id"]
        picture = await find(request.path_params["tenant_id"], image_id) if find else None
        return Response(picture, media_type="image/jpeg") if picture else Response(status_code=404)

    async def _publish_request(self, request: Request) -> Response:
        if self._publish is None:
            return JSONResponse({"message": "this backend publishes nothing"}, 404)
        # A page of another site can make a browser post plain text here, but not JSON.
        if not request.headers.get("Content-Type", "").startswith("application/json"):
            return JSONResponse({"message": "Content-Type: expected application/json"}, 415)
        try:
            content = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            return JSONResponse({"message": f"not JSON: {error}"}, 400)
        if not isinstance(content, dict):
            return JSONResponse({"message": "expected a JSON object"}, 400)
        ids = {"session_id": str(uuid4()), "image_id": str(uuid4())}
        sent = {**ids, **content}
        message_id = await self._publish(orjson.dumps(sent))
        return JSONResponse({"message_id": message_id, **{name: sent[name] for name in ids}})


def _as_json(callback: Callback) -> dict[str, object]:
    return {
        "key": callback.key,
        "event": callback.event,
        "tenant_id": callback.tenant_id,
        "received_at": callback.received_at,
        "duplicates": callback.duplicates,
        "body": callback.body.model_dump(mode="json", by_alias=True),
    }
