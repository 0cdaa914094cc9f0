"""A TCP proxy that can be told to break: for what only a network does."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_CHUNK = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class Line(Enum):
    """What the network does."""

    UP = auto()
    DOWN = auto()
    """Nobody listens, and connections are cut."""
    SILENT = auto()
    """Half-open: connections stand, new ones are taken, and nothing gets through in either direction."""


class Proxy:
    """Passes on what comes, from one port of this machine to another."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._flows = asyncio.Event()
        self.port = 0
        self.latency = 0.0
        """Seconds that each piece takes in each direction."""
        self.connections = 0
        """How many were ever made."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, line: Line) -> None:
        """Let the network be so from now on."""
        self._do(self._set(line))

    def mute(self) -> None:
        """Let the connections that stand swallow everything from now on; new ones get through."""
        self._do(self._mute())

    def reset(self) -> None:
        """Cut all connections with RST; new ones get through."""
        self._do(self._cut())

    def __enter__(self) -> Self:
        self._thread.start()
        self.set(Line.UP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set(Line.DOWN)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, act: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = asyncio.run_coroutine_threadsafe(act, self._loop)
        return done.result(10)

    async def _set(self, line: Line) -> None:
        if line is Line.DOWN:
            self._flows.set()
            if self._server is not None:
                self._server.close()
                self._server = None
            await self._cut()
            return
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        if line is Line.UP:
            self._flows.set()
        else:
            self._flows.clear()

    async def _mute(self) -> None:
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()

    async def _cut(self) -> None:
        tasks = dict(self._connections)
        for task, writer in tasks.items():
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:  # else it has been cut already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        self.connections += 1
        flows = self._flows
        onward: asyncio.StreamWriter | None = None
        try:
            await flows.wait()
            back, onward = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, onward, flows))
                pumps.create_task(self._pump(back, writer, flows))
        except* (OSError, asyncio.CancelledError):
            pass  # either end has gone, or we were told to cut it
        finally:
            del self._connections[task]
            for end in (writer, onward):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, flows: asyncio.Event
    ) -> None:
        while data := await source.read(_CHUNK):
            if self.latency:
                await asyncio.sleep(self.latency)
            await flows.wait()
            sink.write(data)
            await sink.drain()
        sink.write_eof()
