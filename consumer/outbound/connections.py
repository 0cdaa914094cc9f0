"""Connections that are kept: the one that was used last is used again first.

A connection is httpcore's. Its pool is left out: before and after each call it asks every connection about
every other, which with sixteen calls at a time is most of what a call costs. Here a call looks at one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpcore

Make = Callable[[httpcore.Origin], httpcore.AsyncConnectionInterface]
"""Makes a connection, which connects when it is first used."""


class Connections:
    """Connections to any number of hosts.

    Args:
        make: makes one.
        most: calls at a time; others wait.
        kept: connections that are kept while nobody uses them.
    """

    def __init__(self, make: Make, most: int, kept: int) -> None:
        self._make = make
        self._calls = asyncio.Semaphore(most)
        self._kept = kept
        self._idle: list[tuple[httpcore.Origin, httpcore.AsyncConnectionInterface]] = []
        """The one used last is the last."""
        self._is_closed = False

    async def send(self, request: httpcore.Request) -> Answer:
        """Send a request; whoever gets the answer closes it.

        Raises:
            Exception: httpcore's, or what `make`'s connection raises when it connects.
        """
        origin = request.url.origin
        await self._calls.acquire()
        connection: httpcore.AsyncConnectionInterface | None = None
        try:
            connection = await self._take(origin) or self._make(origin)
            response = await connection.handle_async_request(request)
        except BaseException:
            self._calls.release()
            if connection is not None:
                await connection.aclose()
            raise
        return Answer(response, self, origin, connection)

    async def give_back(self, origin: httpcore.Origin, connection: httpcore.AsyncConnectionInterface) -> None:
        """Keep a connection whose answer was read to its end, if there is room; close any other."""
        self._calls.release()
        if connection.is_available() and not self._is_closed:
            self._idle.append((origin, connection))
        else:
            await connection.aclose()
        while self._idle and (len(self._idle) > self._kept or self._idle[0][1].has_expired()):
            await self._idle.pop(0)[1].aclose()

    async def aclose(self) -> None:
        """Close those that nobody uses, and the others as they are given back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop()[1].aclose()

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface | None:
        for place in reversed(range(len(self._idle))):
            if self._idle[place][0] == origin:
                _, connection = self._idle.pop(place)
                if not connection.has_expired():
                    return connection
                await connection.aclose()
                return await self._take(origin)  # places have changed
        return None


class Answer:
    """An answer, whose body comes as it is iterated over."""

    def __init__(
        self,
        response: httpcore.Response,
        connections: Connections,
        origin: httpcore.Origin,
        connection: httpcore.AsyncConnectionInterface,
    ) -> None:
        self.response = response
        self._connections = connections
        self._origin = origin
        self._connection = connection
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        """Be done with it."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self.response.aclose()
        finally:
            await self._connections.give_back(self._origin, self._connection)
