"""This machine's clock against those of servers that tell another time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest

from consumer.doctor.findings import Severity
from tests.doctor.sites import Good, said, worst
from tests.doctor.storage_server import serving
from tests.peers import free_port

pytestmark = pytest.mark.anyio


@contextmanager
def clock(ahead: float, *, methods: list[str] | None = None, date: str | None = None) -> Iterator[str]:
    """A server whose clock is ahead of ours; `date` is what it says instead."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if methods is not None:
                methods.append(f"{self.command} {self.path}")
            self.send_response_only(404)
            said_date = formatdate(time.time() + ahead, usegmt=True) if date is None else date
            if said_date:
                self.send_header("Date", said_date)
            self.end_headers()

        do_GET = do_POST = do_HEAD  # noqa: N815 (as the server calls them)

    with serving(Handler) as url:
        yield url


async def test_a_clock_that_is_right_is_right(good: Good) -> None:
    methods: list[str] = []
    with clock(0, methods=methods) as url:
        assert worst(await good.ask("clock.skew", backend_url=f"{url}/api")) is Severity.OK
    assert methods == ["HEAD /"]


@pytest.mark.parametrize(("ahead", "word"), [(3600, "behind"), (-90, "ahead of")])
async def test_a_clock_that_is_wrong_is_found(good: Good, ahead: float, word: str) -> None:
    with clock(ahead) as url:
        findings = await good.ask("clock.skew", backend_url=url)

    assert worst(findings) is Severity.WARNING
    assert f"{word} the backend" in said(findings)


async def test_the_store_and_the_backend_are_both_asked(good: Good) -> None:
    with clock(0) as right, clock(500) as wrong:
        findings = await good.ask("clock.skew", backend_url=wrong, storage_emulator_host=right)

    assert {f.subject: f.severity for f in findings} == {
        "Cloud Storage": Severity.OK,
        "the backend": Severity.WARNING,
    }


@pytest.mark.parametrize("date", ["", "yesterday"])
async def test_who_tells_no_time_is_skipped(good: Good, date: str) -> None:
    with clock(0, date=date) as url:
        assert worst(await good.ask("clock.skew", backend_url=url)) is Severity.SKIPPED


async def test_who_does_not_answer_is_skipped(good: Good) -> None:
    findings = await good.ask("clock.skew", backend_url=f"http://127.0.0.1:{free_port()}")

    assert worst(findings) is Severity.SKIPPED
