"""Probes and metrics on one port: /startupz, /readyz, /livez, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], str]
"""Returns why not; an empty string when all is well."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What each probe looks at, by name."""

    startup: Mapping[str, Check]
    readiness: Mapping[str, Check]
    liveness: Mapping[str, Check]


def health_app(probes: Probes, registry: CollectorRegistry) -> Starlette:
    """Return the HTTP application of probes and metrics."""

    def probe(path: str, checks: Mapping[str, Check]) -> Route:
        async def answer(request: Request) -> Response:
            del request
            failing = {name: why for name, check in checks.items() if (why := check())}
            return JSONResponse({"ok": not failing, "failing": failing}, status_code=503 if failing else 200)

        return Route(path, answer)

    async def metrics(request: Request) -> Response:
        # Only whoever asks for OpenMetrics is told which traces the numbers were measured in.
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=media_type)

    return Starlette(
        routes=[
            probe("/startupz", probes.startup),
            probe("/readyz", probes.readiness),
            probe("/livez", probes.liveness),
            Route("/metrics", metrics),
        ]
    )


class _Server(uvicorn.Server):
    """Leaves signals to the worker: a drain must answer probes to its end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncIterator[int]:
    """Serve `app` while the context lasts, and give the port: any free one for 0.

    Raises:
        OSError: the port is taken.
    """
    listener = _listen(host, port)
    server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """Bind here rather than in the server, which would end the process if the port were taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.listen()
    return listener
