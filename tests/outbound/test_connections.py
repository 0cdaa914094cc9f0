"""Connections that are kept: used again, given up when they are no good, and never more than there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpcore
import pytest

from consumer.outbound.connections import Connections

pytestmark = pytest.mark.anyio


@dataclass
class Server:
    """Answers with the number of the connection that a call came by."""

    url: str = ""
    connections: int = 0
    open: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    asked: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    closes: bool = False
    """After each answer, without having said so."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = str(self.connections).encode()
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked.release()
                await self.gate.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(number), number))
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            async with self.changed:
                self.open -= 1
                self.changed.notify_all()

    async def until_open(self, count: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: self.open == count)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    found = Server()
    found.gate.set()
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0) as server:
        found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield found


def some(most: int = 8, kept: int = 8, seconds: float = 30) -> Connections:
    return Connections(lambda origin: httpcore.AsyncHTTPConnection(origin, None, seconds), most, kept)


async def ask(connections: Connections, server: Server) -> int:
    """Return the number of the connection that a call went by."""
    answer = await connections.send(httpcore.Request("GET", server.url, headers={"Host": "here"}))
    try:
        return int(b"".join([part async for part in answer]))
    finally:
        await answer.aclose()


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with serving() as server:
        connections = some()
        assert [await ask(connections, server) for _ in range(3)] == [1, 1, 1]
        await connections.aclose()
        await server.until_open(0)


async def test_of_many_that_are_kept_the_one_that_was_used_last_is_used_again() -> None:
    async with serving() as server:
        connections = some()
        assert sorted(await asyncio.gather(*(ask(connections, server) for _ in range(5)))) == [1, 2, 3, 4, 5]
        last = await ask(connections, server)
        assert [await ask(connections, server) for _ in range(3)] == [last] * 3
        await connections.aclose()


async def test_no_more_calls_go_at_a_time_than_may() -> None:
    async with serving() as server:
        server.gate.clear()
        connections = some(most=2)
        calls = [asyncio.create_task(ask(connections, server)) for _ in range(6)]
        for _ in range(2):
            await server.asked.acquire()
        await asyncio.sleep(0.05)
        assert server.connections == 2

        server.gate.set()
        assert set(await asyncio.gather(*calls)) == {1, 2}
        await connections.aclose()


async def test_more_than_are_to_be_kept_are_closed() -> None:
    async with serving() as server:
        connections = some(kept=2)
        await asyncio.gather(*(ask(connections, server) for _ in range(5)))

        await server.until_open(2)
        await connections.aclose()


async def test_a_call_that_is_cancelled_takes_neither_its_place_nor_its_connection_along() -> None:
    async with serving() as server:
        server.gate.clear()
        connections = some(most=1)
        call = asyncio.create_task(ask(connections, server))
        await server.asked.acquire()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        server.gate.set()
        assert await ask(connections, server) == 2
        await connections.aclose()
        await server.until_open(0)


async def test_a_call_that_cannot_connect_gives_its_place_back() -> None:
    async with serving() as server:
        pass  # nobody listens there any more
    connections = some(most=1)
    for _ in range(3):
        with pytest.raises(httpcore.ConnectError):
            await ask(connections, server)


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async with serving() as server:
        server.closes = True
        connections = some()
        assert await ask(connections, server) == 1
        await server.until_open(0)
        assert await ask(connections, server) == 2
        await connections.aclose()


async def test_a_connection_that_rested_too_long_is_not_used_again() -> None:
    async with serving() as server:
        connections = some(seconds=0.01)
        assert await ask(connections, server) == 1
        await asyncio.sleep(0.02)
        assert await ask(connections, server) == 2
        await connections.aclose()


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again() -> None:
    async with serving() as server:
        connections = some()
        answer = await connections.send(httpcore.Request("GET", server.url, headers={"Host": "here"}))
        await answer.aclose()
        await answer.aclose()
        assert await ask(connections, server) == 2
        await connections.aclose()


async def test_two_hosts_share_no_connection() -> None:
    async with serving() as server, serving() as other:
        connections = some()
        for one in (server, other, server, other):
            assert await ask(connections, one) == 1
        await connections.aclose()
