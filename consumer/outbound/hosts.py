"""Where callbacks may go: hosts the operator named, and no others."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from consumer.errors import CallbackFailed
from contracts.failure import FailureClass

_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata", "169.254.169.254"})


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry: a host, or `*.domain`; `http://` in front allows plain http, a port limits to that port."""

    host: str
    plain_http: bool
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> AllowedHost:
        """Read an entry such as `api.example.com`, `*.example.com` or `http://backend:8080`."""
        url = urlsplit(entry if "://" in entry else f"https://{entry}")
        return cls((url.hostname or "").lower(), url.scheme == "http", url.port)

    def fits(self, host: str, scheme: str, port: int | None) -> bool:
        """Tell whether a url with these parts is allowed by this entry."""
        if scheme != "https" and not (scheme == "http" and self.plain_http):
            return False
        if self.port is not None and port != self.port:
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and not _is_address(host)
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

    def check(self, url: str) -> None:
        """Return if `url` may be called.

        Raises:
            CallbackFailed: permanent, naming the host and the setting that allows it.
        """
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError as error:
            raise CallbackFailed(f"callback_url {url!r}: {error}", FailureClass.PERMANENT) from error
        if parts.username or parts.password:
            raise CallbackFailed(f"callback_url for {host!r} carries credentials", FailureClass.PERMANENT)
        if not any(entry.fits(host, parts.scheme, port) for entry in self.entries):
            raise CallbackFailed(
                f"callback_url {parts.scheme}://{host} is not allowed; see in CALLBACK_ALLOWED_HOSTS",
                FailureClass.PERMANENT,
            )
        if host in _METADATA_HOSTS or (_is_local(host) and not self.allow_loopback):
            raise CallbackFailed(f"callback_url host {host!r} is never allowed", FailureClass.PERMANENT)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    if not _is_address(host):
        return host == "localhost" or host.endswith(".localhost")
    address = ipaddress.ip_address(host)
    return address.is_loopback or address.is_link_local or address.is_unspecified
