"""Which dead letters are meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.dead_letters.envelope import DeadLetter, read_envelope
from consumer.dead_letters.filters import Filters, moment_of
from tests.dead_letters.postbox import delivery, letter_of, request

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def letter(data: bytes = b"", attributes: dict[str, str] | None = None, **changes: Any) -> DeadLetter:
    return read_envelope(letter_of(data or request(), attributes, **changes))


def test_without_filters_every_letter_is_meant() -> None:
    assert Filters().are_none
    assert Filters().match(letter())
    assert Filters().match(read_envelope(delivery(b"\xff")))


@pytest.mark.parametrize(
    ("filters", "is_meant"),
    [
        (Filters(tenants=frozenset({"acme", "green"})), True),
        (Filters(tenants=frozenset({"acm"})), False),
        (Filters(codes=frozenset({"invalid_pipeline"})), True),
        (Filters(codes=frozenset({"invalid"})), False),
        (Filters(classes=frozenset({"permanent"})), True),
        (Filters(classes=frozenset({"transient"})), False),
        (Filters(ids=frozenset({"7"})), True),
        (Filters(ids=frozenset({"source-1"})), True),
        (Filters(ids=frozenset({"result-1"})), True),
        (Filters(ids=frozenset({"8"})), False),
        (Filters(steps=("steps.1",)), True),
        (Filters(steps=("steps",)), True),
        (Filters(steps=("steps.1.branch",)), True),
        (Filters(steps=("steps.1.bran",)), False),
        (Filters(steps=("steps.10",)), False),
        (Filters(since=NOW), True),
        (Filters(since=NOW + timedelta(seconds=1)), False),
        (Filters(until=NOW), False),
        (Filters(until=NOW + timedelta(seconds=1)), True),
        (Filters(text="DETECTON"), True),
        (Filters(text="originals/0.JPG"), True),
        (Filters(text="nowhere"), False),
        (Filters(tenants=frozenset({"acme"}), codes=frozenset({"object_missing"})), False),
    ],
)
def test_all_that_is_said_must_fit(filters: Filters, is_meant: bool) -> None:
    given = letter(step_path="steps.1.branch[2].steps.0", failed_at=NOW, result_id="result-1")

    assert filters.match(given) is is_meant


def test_a_notifications_tenant_may_be_any_of_its_folders() -> None:
    notification = {
        "eventType": "OBJECT_FINALIZE", "bucketId": "photos", "objectId": "incoming/acme/originals/green.jpg",
    }  # fmt: skip
    given = letter(b"{}", notification)

    assert Filters(tenants=frozenset({"acme"})).match(given)
    assert not Filters(tenants=frozenset({"green.jpg"})).match(given)


def test_what_cannot_be_read_is_nobodys_and_told_apart() -> None:
    unread = replace(letter(), original=None, unreadable="gone")
    tenants, codes = Filters(tenants=frozenset({"acme"})), Filters(codes=frozenset({"invalid_pipeline"}))

    assert (tenants.match(unread), tenants.may_match_unread(unread)) == (False, True)
    assert (codes.match(unread), codes.may_match_unread(unread)) == (True, False)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("3d", NOW - timedelta(days=3)),
        ("2026-02-28", datetime(2026, 2, 28, tzinfo=UTC)),
        ("2026-03-01T10:00:00", NOW - timedelta(hours=2)),
        ("2026-03-01T10:00:00-02:00", NOW),
    ],
)
def test_moments_are_ages_or_times(text: str, moment: datetime) -> None:
    assert moment_of(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2", "-2h", "2 weeks"])
def test_other_moments_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected an age such as"):
        moment_of(text, NOW)
