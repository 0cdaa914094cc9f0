"""Where callbacks may go: hosts the operator named, at addresses those may have, and nowhere else.

It is asked twice. Before anything is run for a message, whether its url names an allowed host (`check`);
and at the moment of connecting, whether the addresses that name stands for are allowed (`check_addresses`,
from `pinned.py`): what a name stands for is decided by whoever runs its DNS, and can change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import httpx

from consumer.errors import CallbackFailed
from consumer.outbound.addresses import Address, Reach, address_of, reach_of
from consumer.redaction import redacted
from contracts.failure import FailureClass

_DEFAULT_PORTS = {"http": 80, "https": 443}
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata"})
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
"""What DNS can be asked for; no other text is passed on to a resolver, or to a message."""
_NAMES_A_PORT = re.compile(r"[^/?#]*:\d+($|[/?#])")
_NUMERIC_ENDING = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?")
"""Resolvers read `2130706433`, `0x7f.1` and `0177.0.0.1` as addresses."""


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry: a host, or `*.domain`; `http://` in front allows plain http, a port limits to that port."""

    host: str
    """As DNS has it: lower case, international names encoded."""
    plain_http: bool
    port: int | None
    is_wildcard: bool = False
    """Whether it stands for every host below `host`."""

    @classmethod
    def parse(cls, entry: str) -> AllowedHost:
        """Read an entry such as `api.example.com`, `*.example.com` or `http://backend:8080`.

        Raises:
            ValueError: naming the entry.
        """
        scheme, rest = entry.split("://", 1) if "://" in entry else ("https", entry)
        is_wildcard = rest.startswith("*.")
        wrong = ValueError(
            f"callback host {redacted(entry)!r}: expected a host, *.domain, or http://host[:port]"
        )
        try:
            url = httpx.URL(f"{scheme}://{rest.removeprefix('*.')}")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise wrong from error
        host, port = url.raw_host.decode("ascii"), url.port
        if url.scheme not in _DEFAULT_PORTS or url.userinfo or not is_host(host):
            raise wrong
        if is_wildcard and (_NUMERIC_ENDING.fullmatch(host) or address_of(host)):
            raise wrong
        if port is None and _NAMES_A_PORT.match(rest):
            port = _DEFAULT_PORTS[url.scheme]  # which `httpx` leaves out
        if port is not None and not 0 < port < 65536:
            raise wrong
        return cls(host, url.scheme == "http", port, is_wildcard)

    def fits(self, host: str, scheme: str, port: int | None) -> bool:
        """Tell whether a url with these parts is allowed by this entry."""
        if scheme != "https" and not (scheme == "http" and self.plain_http):
            return False
        if self.port is not None and port != self.port:
            return False
        if self.is_wildcard:
            return host.endswith(f".{self.host}") and not _NUMERIC_ENDING.fullmatch(host)
        return host == self.host

    def names(self, host: str, port: int) -> bool:
        """Tell whether the operator wrote this very host here, not only a domain it is in."""
        return not self.is_wildcard and host == self.host and self.port in (None, port)


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
            CallbackFailed: permanent, naming the host and the setting that allows it; never the url's path,
                query or credentials, which may be secrets.
        """
        parts = check_url(url)
        host = parts.raw_host.decode("ascii").lower()
        port = _DEFAULT_PORTS.get(parts.scheme) if parts.port is None else parts.port
        if not any(entry.fits(host, parts.scheme, port) for entry in self.entries):
            raise CallbackFailed(
                f"callback_url {parts.scheme[:10]}://{host}:{port} is not allowed: CALLBACK_ALLOWED_HOSTS "
                "lists no entry for it (plain http needs one that says http://)",
                FailureClass.PERMANENT,
            )
        if self._is_never_allowed(host):
            raise CallbackFailed(f"callback_url host {host!r} is never allowed", FailureClass.PERMANENT)
        return host

    def check_addresses(self, host: str, port: int, addresses: Iterable[Address]) -> None:
        """Return if a connection to `host` may be made to every one of the addresses it stands for.

        One that may not be called spoils the others: no honest host has it beside them.

        Raises:
            CallbackFailed: configuration, if the operator named this host: no message is to blame for what
                its name stands for. Permanent, if a message chose it among those a wildcard allows.
        """
        is_named = any(entry.names(host, port) for entry in self.entries)
        allowed = {Reach.PUBLIC}
        if is_named:
            allowed.add(Reach.PRIVATE)
        if self.allow_loopback:
            allowed.add(Reach.THIS_MACHINE)
        for address in addresses:
            if reach_of(address) not in allowed:
                hint = "" if is_named else "; a private address needs an entry that names the host exactly"
                raise CallbackFailed(
                    f"callback host {host!r} stands for {address}, which may not be called{hint}",
                    FailureClass.CONFIGURATION if is_named else FailureClass.PERMANENT,
                )

    def _is_never_allowed(self, host: str) -> bool:
        """Tell it from the name alone; what the name stands for is another matter."""
        name = host.removesuffix(".")
        address = address_of(host)
        if address is None:
            is_here = name == "localhost" or name.endswith(".localhost")
            return name in _METADATA_HOSTS or (is_here and not self.allow_loopback)
        reach = reach_of(address)
        return reach is Reach.NEVER or (reach is Reach.THIS_MACHINE and not self.allow_loopback)


def check_url(url: str) -> httpx.URL:
    """Return the parts of a callback's url, if any operator could allow it.

    Raises:
        CallbackFailed: permanent; see `AllowedHosts.check`.
    """
    try:
        # As the client reads it: two readers might disagree on what the host is.
        parts = read_url(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise CallbackFailed(
            "callback_url is no url: expected https://host[:port]/path", FailureClass.PERMANENT
        ) from error
    host = parts.raw_host.decode("ascii").lower()
    if not is_host(host):
        raise CallbackFailed(
            "callback_url names no host: expected https://host[:port]/path", FailureClass.PERMANENT
        )
    if parts.scheme not in _DEFAULT_PORTS:
        raise CallbackFailed(
            f"callback_url {parts.scheme[:10]}://{host} is not allowed: expected https://",
            FailureClass.PERMANENT,
        )
    if parts.userinfo:
        raise CallbackFailed(f"callback_url for {host!r} carries credentials", FailureClass.PERMANENT)
    return parts


@lru_cache(maxsize=256)
def read_url(url: str) -> httpx.URL:
    """Return the parts of a url as the client reads it: for each message several times, and mostly the same.

    Raises:
        httpx.InvalidURL, UnicodeError: it is none.
    """
    return httpx.URL(url)


def is_host(text: str) -> bool:
    """Tell whether `text` is a name that DNS can be asked for, or an address without a zone."""
    return _NAME.fullmatch(text) is not None or (address_of(text) is not None and "%" not in text)
