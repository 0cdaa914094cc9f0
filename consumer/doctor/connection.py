"""Reaching a host as far as the handshake: its name, its port, its certificate. Nothing is sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from consumer.doctor.once import aside

_TIMEOUT = 4.0
"""Seconds for each: the name, the port with the handshake."""
_SELF_SIGNED = (
    "the certificate of {host} is signed by itself, or by an authority of its own",
    "have it signed by a public authority: the worker trusts no others",
)
_DISTRUSTED = {
    9: ("the certificate of {host} is not valid yet", "look at the clocks of both machines"),
    10: ("the certificate of {host} has expired", "renew the certificate"),
    18: _SELF_SIGNED,
    19: _SELF_SIGNED,
    20: (
        "the certificate of {host} is of an authority that is not known here, or its chain is incomplete",
        "send the intermediate certificates too, or use a certificate of a public authority",
    ),
    62: ("the certificate is not for {host}: {said}", "use the host's name that stands in the certificate"),
}
"""What is wrong and what to do, by OpenSSL's verification errors."""


class CannotConnect(Exception):
    """There is no usable connection; the message says what is in the way, `fix` what to do."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to."""

    host: str
    port: int
    is_https: bool

    def __str__(self) -> str:
        scheme = "https" if self.is_https else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that worked, and was closed again."""

    address: str
    tls: str = ""
    """The version that was agreed on; empty without TLS."""
    valid_until: datetime | None = None
    """When the certificate expires."""


async def resolve(target: Target) -> list[str]:
    """Return the addresses of the host.

    Raises:
        CannotConnect: it has none.
    """
    try:
        async with asyncio.timeout(_TIMEOUT):
            found = await aside(lambda: socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
    except socket.gaierror as error:
        raise CannotConnect(
            f"the name {target.host} does not resolve: {error.strerror}",
            "correct the host's name, or the DNS of the place the worker runs at",
        ) from error
    except TimeoutError as error:
        raise CannotConnect(
            f"the name {target.host} was not resolved within {_TIMEOUT:g} s",
            "look at the DNS of the place the worker runs at, and at its network policy",
        ) from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def connect(target: Target, addresses: list[str], tls: ssl.SSLContext) -> Connection:
    """Connect to the first address that accepts, shake hands if it is https, and close again.

    Raises:
        CannotConnect: none of them does.
    """
    failure: CannotConnect | None = None
    for address in addresses:
        try:
            async with asyncio.timeout(_TIMEOUT / len(addresses)):
                return await _handshake(target, address, tls)
        except (OSError, TimeoutError) as error:  # TLS errors are OSErrors
            failure = failure or _explained(target, address, error)
    raise failure or CannotConnect(f"{target.host} has no address", "correct the host's name")


async def _handshake(target: Target, address: str, tls: ssl.SSLContext) -> Connection:
    _, writer = await asyncio.open_connection(
        address,
        target.port,
        ssl=tls if target.is_https else None,
        server_hostname=target.host if target.is_https else None,
    )
    try:
        secured = writer.get_extra_info("ssl_object")
        if secured is None:
            return Connection(address)
        until = ssl.cert_time_to_seconds(secured.getpeercert()["notAfter"])
        return Connection(address, secured.version() or "", datetime.fromtimestamp(until, UTC))
    finally:
        writer.transport.abort()


def _explained(target: Target, address: str, error: Exception) -> CannotConnect:
    where = f"{target.host}:{target.port} ({address})"
    match error:
        case ssl.SSLCertVerificationError():
            return _distrusted(target, error)
        case ssl.SSLError():
            return CannotConnect(
                f"{where} speaks no TLS we understand: {error.reason or error}",
                f"if it speaks plain http, say so: http://{target.host}:{target.port}; else look at its TLS",
            )
        case ConnectionRefusedError():
            return CannotConnect(
                f"{where} refuses the connection: nothing listens there",
                "start it, or correct the port",
            )
        case TimeoutError():
            return CannotConnect(
                f"{where} does not answer: a firewall or network policy may drop what is sent to it",
                "allow egress from the worker's pods to it, or correct the host",
            )
        case _:
            return CannotConnect(
                f"{where} cannot be reached: {getattr(error, 'strerror', None) or error}",
                "look at the route and the network policy from the worker's pods to it",
            )


def _distrusted(target: Target, error: ssl.SSLCertVerificationError) -> CannotConnect:
    found, fix = _DISTRUSTED.get(
        error.verify_code,
        ("the certificate of {host} is not trusted: {said}", "look at the certificate and its chain"),
    )
    return CannotConnect(found.format(host=target.host, said=error.verify_message), fix)
