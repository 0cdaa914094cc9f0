"""Where dead letters go and wait, and where results go, on the embedded server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.pubsub_v1 import types

from consumer.doctor.findings import Severity
from tests.doctor.sites import (
    DEAD_LETTERS,
    DEAD_READ,
    GOOD_DEAD_READ,
    GOOD_WORK,
    REQUESTS,
    RESULTS,
    RESULTS_READ,
    WORK,
    Good,
    again,
    describe,
    said,
    worst,
)

pytestmark = pytest.mark.anyio

UPDATE = f"gcloud pubsub subscriptions update {DEAD_READ}"
CHECKS_OF_THE_SUBSCRIPTION = [
    f"dead_letters.{name}" for name in ("kind", "retry_policy", "ack_deadline", "retention", "expiration")
]


def delete_topic(good: Good, topic: str) -> None:
    good.server._services._delete_topic(types.DeleteTopicRequest(topic=topic))


def delete_subscription(good: Good, name: str) -> None:
    good.server.run(lambda broker: broker.delete_subscription(name))
    del good.server._services._subscriptions[name]


@pytest.mark.parametrize(
    ("check", "fields", "severity", "words"),
    [
        ("dead_letters.ack_deadline", {"ack_deadline_seconds": 60}, Severity.WARNING, "--ack-deadline=600"),
        (
            "dead_letters.retention",
            {"message_retention_duration": timedelta(days=7)},
            Severity.WARNING,
            "keeps dead letters for 7 d; 31 d; ",
        ),
        (
            "dead_letters.expiration",
            {"expiration_policy": types.ExpirationPolicy(ttl=timedelta(days=31))},
            Severity.ERROR,
            "--expiration-period=never",
        ),
        (
            "dead_letters.retry_policy",
            {"retry_policy": types.RetryPolicy()},
            Severity.WARNING,
            "--clear-retry",
        ),
        (
            "dead_letters.kind",
            {"dead_letter_policy": types.DeadLetterPolicy(dead_letter_topic=DEAD_LETTERS)},
            Severity.ERROR,
            f"after 5 looks a dead letter is gone; none; {UPDATE} --clear-dead-letter-policy",
        ),
    ],
)
async def test_a_subscription_that_does_not_suit_dead_letters_is_found(
    good: Good, check: str, fields: dict[str, Any], severity: Severity, words: str
) -> None:
    again(good.server, DEAD_READ, DEAD_LETTERS, **{**GOOD_DEAD_READ, **fields})

    findings = await good.ask(check)

    assert worst(findings) is severity
    assert words in said(findings)


async def test_a_filter_on_dead_letters_is_found(good: Good) -> None:
    describe(good.server, DEAD_READ, filter='attributes.a = "b"')

    assert "has a filter" in said(await good.ask("dead_letters.kind"))


@pytest.mark.parametrize(
    ("check", "topic"), [("dead_letters.topic", DEAD_LETTERS), ("results.topic", RESULTS)]
)
async def test_a_topic_that_does_not_exist_is_said_once(good: Good, check: str, topic: str) -> None:
    delete_topic(good, topic)

    [finding] = await good.ask(check)

    assert finding.severity is Severity.ERROR
    assert finding.fix == f"gcloud pubsub topics create {topic}"
    assert worst(await good.ask(check.replace("topic", "subscribers"))) is Severity.SKIPPED


async def test_dead_letters_that_nobody_reads_are_an_error(good: Good) -> None:
    delete_subscription(good, DEAD_READ)

    [finding] = await good.ask("dead_letters.subscribers")

    assert finding.severity is Severity.ERROR
    assert "nobody subscribes to it: dead letters are lost" in finding.found
    assert finding.fix.startswith(f"gcloud pubsub subscriptions create {DEAD_READ} --topic={DEAD_LETTERS} ")


async def test_results_that_nobody_reads_are_a_warning(good: Good) -> None:
    delete_subscription(good, RESULTS_READ)

    assert worst(await good.ask("results.subscribers")) is Severity.WARNING


async def test_the_topic_of_the_policy_is_looked_at_too(good: Good) -> None:
    other = f"{DEAD_LETTERS}-of-the-policy"
    good.server.create_topic(other)
    policy = types.DeadLetterPolicy(dead_letter_topic=other, max_delivery_attempts=100)
    again(good.server, WORK, REQUESTS, **{**GOOD_WORK, "dead_letter_policy": policy})

    found = {finding.subject: finding.severity for finding in await good.ask("dead_letters.subscribers")}

    assert found == {DEAD_LETTERS: Severity.OK, other: Severity.ERROR}


@pytest.mark.parametrize("check", ["dead_letters.topic", "results.topic"])
async def test_a_schema_is_found(good: Good, check: str) -> None:
    for topic in (DEAD_LETTERS, RESULTS):
        good.server._services._topics[topic].schema_settings.schema = "projects/nursery/schemas/strict"

    findings = await good.ask(check)

    assert worst(findings) in (Severity.ERROR, Severity.WARNING)
    assert "--clear-schema-settings" in said(findings)


async def test_without_a_subscription_to_read_dead_letters_from_the_rest_is_skipped(good: Good) -> None:
    [finding] = await good.ask("dead_letters.subscription", dead_letter_subscription=None)

    assert finding.severity is Severity.WARNING
    assert "DEAD_LETTER_SUBSCRIPTION=" in finding.fix
    for check in CHECKS_OF_THE_SUBSCRIPTION:
        assert worst(await good.ask(check, dead_letter_subscription=None)) is Severity.SKIPPED


async def test_a_dead_letter_subscription_that_is_missing_or_attached_elsewhere_is_found(good: Good) -> None:
    missing = await good.ask("dead_letters.subscription", dead_letter_subscription="nobody")
    elsewhere = await good.ask("dead_letters.subscription", dead_letter_subscription=RESULTS_READ)
    delete_topic(good, DEAD_LETTERS)
    deleted = await good.ask("dead_letters.subscription")

    assert [worst(findings) for findings in (missing, elsewhere, deleted)] == [Severity.ERROR] * 3
    assert "does not exist" in said(missing)
    assert f"attached to {RESULTS}" in said(elsewhere)
    assert "its topic was deleted" in said(deleted)
