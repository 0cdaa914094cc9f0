"""The clock of this machine against those of others."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from consumer.doctor.checks import Findings, Unreachable, check
from consumer.doctor.findings import ok, seconds, skipped, warning
from consumer.doctor.once import aside
from consumer.doctor.site import Site
from consumer.errors import CallbackFailed
from consumer.settings import InvalidSettings

MOST = 60.0
_TIMEOUT = 4.0


class NoTime(Exception):
    """Nobody told the time; the message says why."""


@check("clock.skew", fix="synchronise this machine's clock (NTP)")
async def skew(site: Site) -> Findings:
    """This machine's clock is right, to a minute.

    Signed callbacks carry a timestamp that the backend compares, and tokens and certificates are valid for a
    time. Deadlines and leases do not depend on it. The backend is asked with HEAD, which changes nothing.
    """
    for who, url in _clocks(site):
        try:
            ahead = await aside(lambda url=url: time_ahead(url, site.tls))  # type: ignore[misc]
        except NoTime as why:
            yield skipped(who, f"{who} tells no time: {why}")
            continue
        found = f"this machine is {seconds(round(abs(ahead)))} {'ahead of' if ahead > 0 else 'behind'} {who}"
        if abs(ahead) > MOST:
            yield warning(who, found, f"at most {seconds(MOST)}")
        else:
            yield ok(who, found if abs(ahead) >= 1 else f"the same time as {who}")


def time_ahead(url: str, tls: ssl.SSLContext) -> float:
    """Return how many seconds this machine is ahead of a server, by the `Date` of its answer. Blocks.

    Raises:
        NoTime: it gives none.
    """
    parts = urlsplit(url)
    connection = (
        http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT, context=tls)
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT)
    )
    sent = time.time()
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("Date")
    except (OSError, http.client.HTTPException) as failed:
        raise NoTime(str(failed) or type(failed).__name__) from failed
    finally:
        connection.close()
    if date is None:
        raise NoTime("its answer has no Date")
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError as error:
        raise NoTime(f"its Date cannot be read: {date!r}") from error
    # Half of the way there and back; and a Date is cut to whole seconds.
    return (sent + time.time()) / 2 - (theirs + 0.5)


def _clocks(site: Site) -> Iterator[tuple[str, str]]:
    """Yield whose time is asked for, and where."""
    if not site.is_local or site.settings.storage_emulator_host:
        yield "Cloud Storage", site.storage_api.endpoint
    backend = site.settings.backend_url
    if backend != "none":
        try:
            site.hosts().check(str(backend))
        except (CallbackFailed, InvalidSettings) as refused:
            raise Unreachable("callback.hosts") from refused
        yield "the backend", str(backend)
