"""The way of callbacks: connects to the very addresses that were checked, and to no others.

A name is looked up once, here, and the connection goes to what was found and allowed: a name server that
answers differently the second time (DNS rebinding) is not asked a second time. TLS still checks the
certificate against the *name*, and the `Host` header is the url's. A connection that is kept and used again
is one that was checked when it was made.

Built on httpcore's public parts: a transport of `httpx`'s own whose inside we swapped would lose the check,
silently, with the release that renames that inside.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpcore
import httpx

from consumer.outbound.addresses import Address, address_of
from consumer.outbound.connections import Answer, Connections
from consumer.outbound.hosts import AllowedHosts

LOOKUP_TIMEOUT = 10.0
"""Seconds a name server may take; the usual resolver asks twice, 5 s each."""
MAX_TRIED = 4
"""Addresses of one name that are tried; each may take its share of the time."""
_LOOKUP_THREADS = 8
_MAX_CONNECTIONS = 100
_MAX_KEPT = 20
_KEPT_SECONDS = 5.0
_SENT_TOGETHER = 1 << 16
"""Larger parts of a call are not copied."""

Lookup = Callable[[str, int], Sequence[str]]
"""From host and port to the addresses it stands for; blocks. Raises `OSError` if there are none."""

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


def look_up(host: str, port: int) -> Sequence[str]:
    """Ask this machine's resolver.

    Raises:
        OSError: the name stands for nothing, or nobody answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


class PinnedTransport(httpx.AsyncBaseTransport):
    """Carries requests over connections that `PinnedNetwork` made.

    It follows no redirect, takes no proxy, password or certificate from the environment, and keeps no
    cookies: all of that a client adds, and callbacks go without one.

    Args:
        hosts: what may be called.
        tls: how servers are verified; by default against the public authorities.
        lookup: the resolver.
    """

    def __init__(
        self, hosts: AllowedHosts, tls: ssl.SSLContext | None = None, lookup: Lookup = look_up
    ) -> None:
        self._network = PinnedNetwork(hosts, lookup)
        self._tls = tls or httpx.create_ssl_context(trust_env=False)
        self._connections = Connections(self._connection, _MAX_CONNECTIONS, _MAX_KEPT)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            CallbackFailed: the host stands for an address that may not be called.
            httpx.TransportError: it could not be sent, or was not answered.
        """
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 (what an async client sends)
        url = request.url
        if url.scheme not in {"http", "https"}:
            raise httpx.UnsupportedProtocol(f"callbacks go by http or https, not {url.scheme[:10]!r}")
        with _as_httpx():
            answer = await self._connections.send(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        response = answer.response
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(answer),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection that is not in use."""
        await self._connections.aclose()
        self._network.close()

    def _connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        return httpcore.AsyncHTTPConnection(
            origin, self._tls, keepalive_expiry=_KEPT_SECONDS, network_backend=self._network
        )


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Looks names up, checks every address, and connects to one of those addresses."""

    def __init__(self, hosts: AllowedHosts, lookup: Lookup = look_up) -> None:
        self._hosts = hosts
        self._lookup = lookup
        self._tcp = httpcore.AnyIOBackend()
        # Of its own: a name server that does not answer must not take the threads of the steps and the store.
        self._threads = ThreadPoolExecutor(_LOOKUP_THREADS, thread_name_prefix="look-up")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that answers, once all of them are allowed.

        Raises:
            CallbackFailed: one of them is not.
            httpcore.ConnectError, httpcore.ConnectTimeout: nobody answers, of the name servers or the hosts.
        """
        end = time.monotonic() + (LOOKUP_TIMEOUT if timeout is None else timeout)
        addresses = await self._addresses(host, port, min(LOOKUP_TIMEOUT, end - time.monotonic()))
        self._hosts.check_addresses(host, port, addresses)
        tried = addresses[:MAX_TRIED]
        failed: Exception = httpcore.ConnectError(f"{host} stands for no address")
        for left, address in zip(range(len(tried), 0, -1), tried, strict=True):
            share = max(end - time.monotonic(), 0.0) / left
            try:
                stream = await self._tcp.connect_tcp(str(address), port, share, local_address, socket_options)
                return _Connection(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no callback goes to a socket's file."""
        del timeout, socket_options
        raise httpcore.UnsupportedProtocol(f"callbacks go over TCP, not to {path}")

    async def sleep(self, seconds: float) -> None:
        """Wait between two tries."""
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Let the threads end; one that waits for a name server ends when that gives up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, host: str, port: int, timeout: float) -> Sequence[Address]:
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
        try:
            async with asyncio.timeout(timeout):
                found = await asked
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no name server told an address within {timeout:.0f} s") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        addresses = [address_of(text) for text in found]
        unreadable = [text for text, address in zip(found, addresses, strict=True) if address is None]
        if unreadable:
            raise httpcore.ConnectError(f"{host} stands for {unreadable[0]!r}, which is no address")
        return [address for address in addresses if address is not None]


class _Connection(httpcore.AsyncNetworkStream):
    """A connection that sends a call's head with its body, and says at once whether its peer has closed it.

    Before each call it is asked that. httpcore's own would gather all that is known of the socket first.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._unsent = b""
        self._socket: socket.socket = stream.get_extra_info("socket")
        self._looking = select.poll()
        self._looking.register(self._socket.fileno(), select.POLLIN)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            with suppress(httpcore.WriteError):  # whoever refuses a call may have said why before it was sent
                await self._flush(timeout)
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer and len(buffer) <= _SENT_TOGETHER:
            self._unsent += buffer
            return
        await self._flush(timeout)  # an empty part is the end of a body of known length
        if buffer:
            await self._stream.write(buffer, timeout)

    async def _flush(self, timeout: float | None) -> None:
        unsent, self._unsent = self._unsent, b""
        if unsent:
            await self._stream.write(unsent, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Connection(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            await self._stream.aclose()  # which httpcore leaves open where it is cancelled
            raise

    def get_extra_info(self, info: str) -> object:
        if info != "is_readable":
            return self._stream.get_extra_info(info)
        if self._socket.fileno() < 0:
            return True  # closed: so it is found to be by the next read
        return bool(self._looking.poll(0))


class _Body(httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._answer:
                yield part

    async def aclose(self) -> None:
        with _as_httpx():
            await self._answer.aclose()


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise httpcore's errors as httpx's, which are named alike."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error)) from error
