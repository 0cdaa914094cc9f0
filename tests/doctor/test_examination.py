"""All checks at once: on a good site, on a bad one, with some that fail or hang, and on Google's emulator."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from google.pubsub_v1 import types
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from consumer.broker.pubsub import Endpoint
from consumer.doctor.checks import Findings, Unanswered, check
from consumer.doctor.examination import CATALOGUE, examine
from consumer.doctor.findings import Finding, Severity, ok
from consumer.doctor.site import Site
from consumer.local.resources import Resources, create_resources
from tests.doctor.sites import (
    DEAD_LETTERS,
    DEAD_READ,
    GOOD_DEAD_READ,
    GOOD_WORK,
    PUBLIC,
    REQUESTS,
    RESULTS,
    RESULTS_READ,
    WORK,
    Good,
    said,
)
from tests.doctor.storage_server import Storage

pytestmark = pytest.mark.anyio

QUIET = {Severity.OK, Severity.INFO, Severity.SKIPPED}


async def examined(good: Good, *, online: bool = True, **changes: object) -> list[Finding]:
    async with Site(good.given(**changes), online=online, store=good.store, tls=PUBLIC) as site:
        return await examine(site)


def troubles(findings: list[Finding]) -> dict[str, Severity]:
    return {f.check: f.severity for f in findings if f.severity not in QUIET}


async def test_a_good_site_has_nothing_to_mend(good: Good, storage: Storage) -> None:
    findings = await examined(good)

    assert troubles(findings) == {}, said(findings)
    applies_elsewhere = {
        "routes.pipelines", "routes.access", "routes.callback", "routes.notifications",
        "callback.reachable", "callback.certificate", "callback.key", "callback.oidc",
    }  # fmt: skip
    assert {f.check for f in findings} == {known.id for known in CATALOGUE} - applies_elsewhere
    well = {f.check for f in findings if f.severity in (Severity.OK, Severity.INFO)}
    groups = ("time.", "names.", "pubsub.", "subscription.", "dead_letters.", "results.", "bucket.")
    assert {known.id for known in CATALOGUE if known.id.startswith(groups)} <= well


async def test_many_things_wrong_are_all_found(good: Good, storage: Storage) -> None:
    findings = await examined(
        good,
        drain_timeout=1000.0,
        results_topic="nowhere",
        dead_letter_subscription=None,
        bucket="nowhere",
        model_path="/nowhere",
        backend_url="https://backend.invalid",
    )

    assert troubles(findings) == {
        "time.drain": Severity.ERROR,
        "dead_letters.subscription": Severity.WARNING,
        "results.topic": Severity.ERROR,
        "bucket.readable": Severity.ERROR,
        "models.manifest": Severity.ERROR,
        "callback.reachable": Severity.ERROR,
    }
    assert all(finding.fix for finding in findings if finding.severity not in QUIET)
    assert "{" not in "".join(finding.fix for finding in findings)


async def test_offline_only_what_needs_no_network_is_looked_at(good: Good) -> None:
    good.server.stop()

    findings = await examined(good, online=False)

    assert troubles(findings) == {}
    assert {f.check for f in findings} <= {known.id for known in CATALOGUE if not known.needs_network}
    assert {"time.drain", "models.weights", "presets.pipelines"} <= {f.check for f in findings}


def test_nothing_is_wrong_with_what_local_mode_makes(good: Good) -> None:
    create_resources(Resources(), Endpoint(emulator=good.server.address))

    findings = asyncio.run(examined(good, **Resources().settings))

    assert troubles(findings) == {"dead_letters.retention": Severity.WARNING}  # Google's emulator keeps 7 d


# ---------------------------------------------------------------------------- checks that fail


@check("broken.check", fix="")
async def broken(site: Site) -> Findings:
    """It fails after its first finding."""
    yield ok("here", "found before")
    raise ZeroDivisionError("by us")


@check("slow.check", fix="", limit=0.2)
async def slow(site: Site) -> Findings:
    """It never ends."""
    yield ok("here", "found before")
    await asyncio.Event().wait()


@check("refused.check", fix="")
async def refused(site: Site) -> Findings:
    """It gets no answer."""
    raise Unanswered("500 from somebody")
    yield


@check("good.check", fix="")
async def fine(site: Site) -> Findings:
    """It works."""
    yield ok("here", "fine")


async def test_a_check_that_fails_is_reported_and_hides_nothing(good: Good) -> None:
    started = time.monotonic()
    async with Site(good.given(), online=True) as site:
        findings = await examine(site, [broken, slow, refused, fine])

    assert [(f.check, f.severity, f.found) for f in findings] == [
        ("broken.check", Severity.OK, "found before"),
        ("broken.check", Severity.ERROR, "check failed: ZeroDivisionError: by us"),
        ("slow.check", Severity.OK, "found before"),
        ("slow.check", Severity.ERROR, "not through within 0.2 s"),
        ("refused.check", Severity.ERROR, "500 from somebody"),
        ("good.check", Severity.OK, "fine"),
    ]
    assert time.monotonic() - started < 5


async def test_checks_run_side_by_side(good: Good) -> None:
    inside = 0
    everybody = asyncio.Event()

    @check("together.check", fix="")
    async def together(site: Site) -> Findings:
        """It waits for the others."""
        nonlocal inside
        inside += 1
        if inside == 20:
            everybody.set()
        await everybody.wait()
        yield ok("here", "all are here")

    async with Site(good.given(), online=True) as site:
        findings = await examine(site, [together] * 20)

    assert {finding.severity for finding in findings} == {Severity.OK}


async def test_each_question_is_asked_once(good: Good) -> None:
    await examined(good)

    # Once to find out whether anybody answers, once for each of the two subscriptions.
    assert len(good.server.calls("GetSubscription")) == 3
    assert len(good.server.calls("GetTopic")) == 2


# ---------------------------------------------------------------------------- Google's emulator


@pytest.mark.emulator
async def test_on_googles_emulator_it_is_the_same(good: Good, storage: Storage, google_emulator: str) -> None:
    with Endpoint(emulator=google_emulator).connect() as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        for topic in (REQUESTS, RESULTS, DEAD_LETTERS):
            publisher.create_topic(request=types.Topic(name=topic))
        for name, topic, fields in (
            (WORK, REQUESTS, GOOD_WORK),
            (RESULTS_READ, RESULTS, {}),
            # Of its subscriptions none keeps messages for longer.
            (DEAD_READ, DEAD_LETTERS, {**GOOD_DEAD_READ, "message_retention_duration": timedelta(days=7)}),
        ):
            subscriber.create_subscription(request=types.Subscription(name=name, topic=topic, **fields))
        bad = types.Subscription(
            name=f"{WORK}-bad",
            topic=REQUESTS,
            dead_letter_policy=types.DeadLetterPolicy(dead_letter_topic=DEAD_LETTERS),
            message_retention_duration=timedelta(minutes=10),
            enable_message_ordering=True,
            enable_exactly_once_delivery=True,
            filter='attributes.a = "b"',
            push_config=types.PushConfig(push_endpoint="https://x.example"),
        )
        subscriber.create_subscription(request=bad)
        good_findings = await examined(good, pubsub_emulator_host=google_emulator)
        bad_findings = await examined(good, pubsub_emulator_host=google_emulator, subscription="work-bad")
        subscriber.delete_subscription(request={"subscription": DEAD_READ})
        publisher.delete_topic(request={"topic": REQUESTS})
        deleted = await examined(good, pubsub_emulator_host=google_emulator)

    always = {"dead_letters.retention": Severity.WARNING}
    assert troubles(good_findings) == always, said(good_findings)
    skipped = {f.check for f in good_findings if f.severity is Severity.SKIPPED}
    assert {
        "permissions.identity",
        "permissions.subscription",
        "permissions.topics",
        "permissions.forwarding",
    } <= skipped
    assert troubles(bad_findings) == always | {
        "subscription.kind": Severity.ERROR,
        "subscription.retry_policy": Severity.ERROR,
        "subscription.dead_letter_policy": Severity.ERROR,
        "subscription.retention": Severity.ERROR,
        "subscription.expiration": Severity.WARNING,
        "subscription.ordering": Severity.WARNING,
    }
    assert troubles(deleted) == {
        "subscription.topic": Severity.ERROR,
        "dead_letters.subscribers": Severity.ERROR,
        "dead_letters.subscription": Severity.ERROR,
    }
