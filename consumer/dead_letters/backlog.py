"""How many dead letters there should be, as Cloud Monitoring tells; Pub/Sub itself does not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import google.auth
import requests
from google.auth import exceptions as auth_errors
from google.auth.transport.requests import AuthorizedSession

_API: Final = "https://monitoring.googleapis.com"
_SCOPE: Final = "https://www.googleapis.com/auth/monitoring.read"
_METRIC: Final = "pubsub.googleapis.com/subscription/num_undelivered_messages"
_LOOK_BACK: Final = timedelta(minutes=10)
_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages of a subscription that are not acked."""

    count: int | None
    """None if it cannot be told."""
    note: str
    """As of when, or why it is not known."""


async def backlog_of(
    subscription: str, *, emulator: bool, session: requests.Session | None = None, api: str = _API
) -> Backlog:
    """Return the subscription's backlog, some minutes old, or say why it is not known.

    Args:
        subscription: its full name.
        emulator: whether an emulator keeps it, which cannot be asked.
        session: what to ask with; by default one with this process's own credentials.
        api: whom to ask.
    """
    if emulator:
        return Backlog(None, "an emulator does not tell")
    return await asyncio.to_thread(_ask, subscription, session, api)


def _ask(subscription: str, session: requests.Session | None, api: str) -> Backlog:
    _, project, _, name = subscription.split("/")
    now = datetime.now(UTC)
    try:
        with session or _own_session() as asking:
            answer = asking.get(
                f"{api}/v3/projects/{project}/timeSeries",
                params={
                    "filter": f'metric.type="{_METRIC}" AND resource.labels.subscription_id="{name}"',
                    "interval.startTime": (now - _LOOK_BACK).isoformat(),
                    "interval.endTime": now.isoformat(),
                },
                timeout=_TIMEOUT,
            )
            if not answer.ok:
                return Backlog(None, f"Cloud Monitoring answers {answer.status_code}")
            return _latest(answer.json())
    except (requests.RequestException, auth_errors.GoogleAuthError, ValueError) as error:
        return Backlog(None, f"Cloud Monitoring cannot be asked: {error}")


def _own_session() -> requests.Session:
    credentials, _ = google.auth.default(scopes=[_SCOPE])
    session: requests.Session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    return session


def _latest(content: Any) -> Backlog:
    try:
        point = content["timeSeries"][0]["points"][0]  # newest first
        return Backlog(int(point["value"]["int64Value"]), f"as of {point['interval']['endTime']}")
    except (KeyError, IndexError, TypeError):
        return Backlog(None, "Cloud Monitoring has no figure of the last minutes")
