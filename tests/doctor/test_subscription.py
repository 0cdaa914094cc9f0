"""The worker's subscription, on the embedded server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import types

from consumer.doctor import pubsub
from consumer.doctor.examination import CATALOGUE
from consumer.doctor.findings import Severity
from tests.doctor.sites import (
    DEAD_LETTERS,
    GOOD_WORK,
    REQUESTS,
    RESULTS,
    WORK,
    Good,
    again,
    describe,
    said,
    worst,
)

pytestmark = pytest.mark.anyio

NEED_THE_SUBSCRIPTION = [
    known.id
    for known in CATALOGUE
    if known.id == "names.loop"
    or (known.id.startswith("subscription.") and known.id != "subscription.exists")
]


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD_WORK.items() if name not in names}


@pytest.mark.parametrize(
    ("check", "fields", "severity", "words"),
    [
        ("subscription.ack_deadline", {"ack_deadline_seconds": 10}, Severity.INFO, "ack deadline 10 s"),
        ("subscription.retry_policy", {"retry_policy": None}, Severity.ERROR, "--min-retry-delay=10s"),
        (
            "subscription.retry_policy",
            {"retry_policy": types.RetryPolicy(minimum_backoff=timedelta(seconds=0.1))},
            Severity.ERROR,
            "rests 0.1 s to 600 s",
        ),
        (
            "subscription.retry_policy",
            {"retry_policy": types.RetryPolicy(minimum_backoff=timedelta(seconds=2))},
            Severity.INFO,
            "rests 2 s to 600 s",
        ),
        (
            "subscription.dead_letter_policy",
            {"dead_letter_policy": None},
            Severity.ERROR,
            f"--dead-letter-topic={DEAD_LETTERS} --max-delivery-attempts=100",
        ),
        (
            "subscription.dead_letter_policy",
            {"dead_letter_policy": types.DeadLetterPolicy(dead_letter_topic=DEAD_LETTERS)},
            Severity.ERROR,
            "after 5 deliveries",
        ),
        (
            "subscription.dead_letter_policy",
            {
                "dead_letter_policy": types.DeadLetterPolicy(
                    dead_letter_topic=DEAD_LETTERS, max_delivery_attempts=20
                )
            },
            Severity.INFO,
            "after 20 deliveries",
        ),
        (
            "subscription.dead_letter_policy",
            {
                "dead_letter_policy": types.DeadLetterPolicy(
                    dead_letter_topic=RESULTS, max_delivery_attempts=100
                )
            },
            Severity.WARNING,
            f"dead-letters to {RESULTS}",
        ),
        (
            "subscription.retention",
            {"message_retention_duration": timedelta(hours=2)},
            Severity.ERROR,
            "keeps messages for 2 h",
        ),
        (
            "subscription.retention",  # longer than HOLD_TIMEOUT, but not by PIPELINE_TIMEOUT
            {"message_retention_duration": timedelta(hours=2, minutes=20)},
            Severity.ERROR,
            "more than HOLD_TIMEOUT + PIPELINE_TIMEOUT",
        ),
        (
            "subscription.retention",
            {"message_retention_duration": timedelta(days=6)},
            Severity.WARNING,
            "--message-retention-duration=7d",
        ),
        (
            "subscription.expiration",
            {"expiration_policy": types.ExpirationPolicy(ttl=timedelta(days=31))},
            Severity.WARNING,
            "deleted after 31 d",
        ),
        (
            "subscription.expiration",
            {"expiration_policy": None},
            Severity.WARNING,
            "--expiration-period=never",
        ),
        ("subscription.exactly_once", {"enable_exactly_once_delivery": True}, Severity.INFO, "throughput"),
        ("subscription.ordering", {"enable_message_ordering": True}, Severity.WARNING, "holds up"),
    ],
)
async def test_what_is_wrong_with_it_is_found(
    good: Good, check: str, fields: dict[str, Any], severity: Severity, words: str
) -> None:
    again(good.server, WORK, REQUESTS, **{**without(*fields), **{k: v for k, v in fields.items() if v}})

    findings = await good.ask(check)

    assert worst(findings) is severity
    assert words in said(findings)
    assert {finding.check for finding in findings} == {check}


@pytest.mark.parametrize(
    ("check", "fields", "severity", "words"),
    [
        ("subscription.kind", {"detached": True}, Severity.ERROR, "detached"),
        (
            "subscription.kind",
            {"push_config": types.PushConfig(push_endpoint="https://x.example")},
            Severity.ERROR,
            'modify-push-config projects/nursery/subscriptions/work --push-endpoint=""',
        ),
        (
            "subscription.kind",
            {"bigquery_config": types.BigQueryConfig(table="p.d.t")},
            Severity.ERROR,
            "p.d.t",
        ),
        (
            "subscription.kind",
            {"cloud_storage_config": types.CloudStorageConfig(bucket="lake")},
            Severity.ERROR,
            "gs://lake",
        ),
        ("subscription.filter", {"filter": 'attributes.a = "b"'}, Severity.INFO, 'attributes.a = "b"'),
    ],
)
async def test_what_only_the_real_service_can_do_is_found_in_its_description(
    good: Good, check: str, fields: dict[str, Any], severity: Severity, words: str
) -> None:
    describe(good.server, WORK, **fields)

    findings = await good.ask(check)

    assert worst(findings) is severity
    assert words in said(findings)


async def test_a_subscription_that_does_not_exist_is_said_once(good: Good) -> None:
    [missing] = await good.ask("subscription.exists", subscription="wrong")
    others = [await good.ask(check, subscription="wrong") for check in NEED_THE_SUBSCRIPTION]

    assert missing.severity is Severity.ERROR
    assert missing.fix.startswith("gcloud pubsub subscriptions create projects/nursery/subscriptions/wrong ")
    assert [worst(findings) for findings in others] == [Severity.SKIPPED] * len(others)
    assert worst(await good.ask("pubsub.reachable", subscription="wrong")) is Severity.OK


async def test_a_name_that_cannot_be_is_said(good: Good) -> None:
    good.server.fail("GetSubscription", grpc.StatusCode.INVALID_ARGUMENT)

    assert worst(await good.ask("subscription.exists")) is Severity.ERROR


async def test_a_subscription_whose_topic_was_deleted_is_found(good: Good) -> None:
    good.server._services._delete_topic(types.DeleteTopicRequest(topic=REQUESTS))

    findings = await good.ask("subscription.topic")

    assert worst(findings) is Severity.ERROR
    assert "its topic was deleted" in said(findings)


async def test_a_subscription_of_another_topic_is_found(good: Good) -> None:
    again(good.server, WORK, RESULTS, **GOOD_WORK)

    assert "projects/nursery/topics/requests (REQUESTS_TOPIC)" in said(await good.ask("subscription.topic"))
    assert worst(await good.ask("subscription.topic", requests_topic=None)) is Severity.OK
    assert "which is RESULTS_TOPIC" in said(await good.ask("names.loop"))


async def test_a_topic_in_two_roles_is_found(good: Good) -> None:
    findings = await good.ask("names.topics", dead_letter_topic="requests")

    assert worst(findings) is Severity.ERROR
    assert "REQUESTS_TOPIC = DEAD_LETTER_TOPIC: projects/nursery/topics/requests" in said(findings)


async def test_a_subscription_in_two_roles_is_found(good: Good) -> None:
    findings = await good.ask("names.subscriptions", dead_letter_subscription=WORK)

    assert worst(findings) is Severity.ERROR


async def test_who_may_not_look_is_told_what_would_let_them(good: Good) -> None:
    good.server.fail("GetSubscription", grpc.StatusCode.PERMISSION_DENIED)

    [finding] = await good.ask("subscription.retry_policy")

    assert finding.severity is Severity.SKIPPED
    assert "roles/pubsub.viewer" in finding.found
    assert worst(await good.ask("pubsub.reachable")) is Severity.OK


async def test_a_server_that_is_away_is_said_once(good: Good) -> None:
    good.server.stop()

    [finding] = await good.ask("pubsub.reachable")
    others = [await good.ask(check) for check in NEED_THE_SUBSCRIPTION]

    assert finding.severity is Severity.ERROR
    assert "no answer" in finding.found
    assert {other.found for found in others for other in found} == {"see pubsub.reachable"}


async def test_a_server_that_hangs_is_said_in_time(good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pubsub._CALL, "timeout", 0.2)
    good.server.fail("GetSubscription", delay=float("inf"))

    [finding] = await good.ask("pubsub.reachable")
    good.server.heal()

    assert finding.severity is Severity.ERROR


async def test_one_question_that_is_not_answered_is_an_error_of_its_own_check(good: Good) -> None:
    good.server.fail("ListTopicSubscriptions", grpc.StatusCode.INTERNAL)

    assert worst(await good.ask("results.subscribers")) is Severity.ERROR
    assert worst(await good.ask("results.topic")) is Severity.OK
