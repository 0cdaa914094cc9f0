"""How many dead letters there should be, as Cloud Monitoring tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from consumer.dead_letters.backlog import Backlog, backlog_of
from tests.doctor.storage_server import serving

NAME = "projects/nursery/subscriptions/dead-letters"


@contextmanager
def monitoring(status: int, content: Any) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as Cloud Monitoring, and the paths it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

    with serving(Answer) as url:
        yield url, asked


def told(api: str) -> Backlog:
    session = requests.Session()
    session.trust_env = False
    return asyncio.run(backlog_of(NAME, emulator=False, session=session, api=api))


def test_the_newest_figure_is_told_with_its_time() -> None:
    points = [
        {"interval": {"endTime": "2026-03-01T12:00:00Z"}, "value": {"int64Value": "42"}},
        {"interval": {"endTime": "2026-03-01T11:59:00Z"}, "value": {"int64Value": "7"}},
    ]
    with monitoring(200, {"timeSeries": [{"points": points}]}) as (api, asked):
        assert told(api) == Backlog(42, "as of 2026-03-01T12:00:00Z")

    [path] = asked
    query = parse_qs(urlsplit(path).query)
    assert urlsplit(path).path == "/v3/projects/nursery/timeSeries"
    metric = 'metric.type="pubsub.googleapis.com/subscription/num_undelivered_messages"'
    assert query["filter"] == [f'{metric} AND resource.labels.subscription_id="dead-letters"']
    assert query["interval.startTime"] < query["interval.endTime"]


@pytest.mark.parametrize("content", [{}, {"timeSeries": []}, {"timeSeries": [{"points": []}]}, [], "odd"])
def test_no_figure_is_not_taken_for_zero(content: Any) -> None:
    with monitoring(200, content) as (api, _):
        assert told(api) == Backlog(None, "Cloud Monitoring has no figure of the last minutes")


def test_without_the_right_or_the_service_it_is_said_why() -> None:
    with monitoring(403, {}) as (api, _):
        assert told(api) == Backlog(None, "Cloud Monitoring answers 403")
    away = told("http://127.0.0.1:9")
    assert away.count is None
    assert away.note.startswith("Cloud Monitoring cannot be asked: ")


def test_an_emulator_is_not_asked() -> None:
    known = asyncio.run(backlog_of(NAME, emulator=True, api="http://127.0.0.1:9"))

    assert known == Backlog(None, "an emulator does not tell")
