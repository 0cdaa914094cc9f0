"""Where callbacks may go: hosts the operator named, and no others."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from consumer.errors import CallbackFailed
from contracts.failure import FailureClass

_DEFAULT_PORTS = {"http": 80, "https": 443}
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata", "169.254.169.254"})


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry: a host, or `*.domain`; `http://` in front allows plain http, a port limits to that port."""

    host: str
    plain_http: bool
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> AllowedHost:
        """Read an entry such as `api.example.com`, `*.example.com` or `http://backend:8080`.

        Raises:
            ValueError: naming the entry.
        """
        try:
            url = urlsplit(entry if "://" in entry else f"https://{entry}")
            host, port = url.hostname or "", url.port
        except ValueError as error:
            raise ValueError(f"callback host {entry!r}: {error}") from error
        if not host or url.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"callback host {entry!r}: expected a host, *.domain, or http://host[:port]")
        return cls(host.lower(), url.scheme == "http", port)

    def fits(self, host: str, scheme: str, port: int | None) -> bool:
        """Tell whether a url with these parts is allowed by this entry."""
        if scheme != "https" and not (scheme == "http" and self.plain_http):
            return False
        if self.port is not None and port != self.port:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and _address(host) is None
        return host == self.host


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Every host a callback may go to."""

    entries: tuple[AllowedHost, ...]
    allow_loopback: bool = False
    """In local mode only."""

    @classmethod
    def of(cls, entries: Iterable[str], *, allow_loopback: bool = False) -> AllowedHosts:
        """Read the entries."""
        return cls(tuple(AllowedHost.parse(entry) for entry in entries), allow_loopback)

    def check(self, url: str) -> str:
        """Return the host of `url` if it may be called.

        Raises:
            CallbackFailed: permanent, naming the host and the setting that allows it.
        """
        try:
            # As the client reads it: two readers might disagree on what the host is.
            parts = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise CallbackFailed(f"callback_url {url[:200]!r}: {error}", FailureClass.PERMANENT) from error
        host = parts.raw_host.decode("ascii").lower()
        port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
        if parts.userinfo:
            raise CallbackFailed(f"callback_url for {host!r} carries credentials", FailureClass.PERMANENT)
        if not any(entry.fits(host, parts.scheme, port) for entry in self.entries):
            raise CallbackFailed(
                f"callback_url {parts.scheme}://{host}:{port} is not allowed: CALLBACK_ALLOWED_HOSTS lists "
                "no entry for it (plain http needs one that says http://)",
                FailureClass.PERMANENT,
            )
        if _is_never_allowed(host) or (_is_loopback(host) and not self.allow_loopback):
            raise CallbackFailed(f"callback_url host {host!r} is never allowed", FailureClass.PERMANENT)
        return host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_never_allowed(host: str) -> bool:
    address = _address(host)
    return host in _METADATA_HOSTS or (address is not None and address.is_link_local)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
