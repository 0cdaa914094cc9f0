"""Who may do what: the embedded server with permissions, and a server of buckets."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from consumer.broker.pubsub import Endpoint
from consumer.doctor import pubsub
from consumer.doctor.findings import Severity
from tests.doctor.sites import (
    BUCKET,
    DEAD_LETTERS,
    GOOD_WORK,
    REQUESTS,
    RESULTS,
    WORK,
    Good,
    again,
    said,
    worst,
)
from tests.doctor.storage_server import Storage

pytestmark = pytest.mark.anyio

AGENT = "serviceAccount:service-42@gcp-sa-pubsub.iam.gserviceaccount.com"
EVERYTHING = [
    "storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list",
]  # fmt: skip
CHECKS = [
    "permissions.subscription", "permissions.topics", "permissions.buckets", "permissions.forwarding",
]  # fmt: skip


def permit_all(good: Good) -> None:
    good.server.permitted = {
        WORK: {"pubsub.subscriptions.consume"},
        RESULTS: {"pubsub.topics.publish"},
        DEAD_LETTERS: {"pubsub.topics.publish"},
    }
    good.server.grants = {
        DEAD_LETTERS: {"roles/pubsub.publisher": ["user:somebody@nursery.example", AGENT]},
        WORK: {"roles/pubsub.subscriber": [AGENT]},
    }


@pytest.mark.parametrize("check", CHECKS)
async def test_who_may_everything_hears_nothing(good: Good, storage: Storage, check: str) -> None:
    permit_all(good)
    storage.permitted[BUCKET] = EVERYTHING

    assert worst(await good.ask(check)) is Severity.OK


async def test_what_the_worker_may_not_is_found_one_by_one(good: Good, storage: Storage) -> None:
    permit_all(good)
    good.server.permitted = {RESULTS: {"pubsub.topics.publish"}}
    storage.permitted = {BUCKET: EVERYTHING[:3], "inputs": []}

    [consume] = await good.ask("permissions.subscription")
    topics = await good.ask("permissions.topics")
    buckets = await good.ask("permissions.buckets", allowed_buckets=("inputs", BUCKET))

    assert consume.severity is Severity.ERROR
    assert consume.fix == (
        f"gcloud pubsub subscriptions add-iam-policy-binding {WORK} --member=MEMBER "
        "--role=roles/pubsub.subscriber"
    )
    assert {found.subject: found.severity for found in topics} == {
        RESULTS: Severity.OK,
        DEAD_LETTERS: Severity.ERROR,
    }
    assert {found.subject: found.found for found in buckets} == {
        f"gs://{BUCKET}": "lacks storage.objects.list",
        "gs://inputs": "lacks storage.objects.get, storage.objects.list",
    }
    assert "gs://inputs --member=MEMBER --role=roles/storage.objectViewer" in said(buckets)


async def test_a_service_agent_without_its_grants_is_found(good: Good) -> None:
    permit_all(good)
    good.server.grants[DEAD_LETTERS] = {"roles/pubsub.viewer": [AGENT]}

    found = {finding.subject: finding for finding in await good.ask("permissions.forwarding")}

    assert found[WORK].severity is Severity.OK
    assert found[DEAD_LETTERS].severity is Severity.WARNING
    assert found[DEAD_LETTERS].fix == (
        f"gcloud pubsub topics add-iam-policy-binding {DEAD_LETTERS} --member="
        '"serviceAccount:service-$(gcloud projects describe nursery --format="value(projectNumber)")'
        '@gcp-sa-pubsub.iam.gserviceaccount.com" --role=roles/pubsub.publisher'
    )


async def test_grants_that_may_not_be_seen_are_skipped_and_not_guessed(good: Good) -> None:
    good.server.grants = {}

    findings = await good.ask("permissions.forwarding")

    assert {finding.severity for finding in findings} == {Severity.SKIPPED}


async def test_without_a_dead_letter_policy_there_is_nothing_to_forward(good: Good) -> None:
    again(good.server, WORK, REQUESTS, **{k: v for k, v in GOOD_WORK.items() if k != "dead_letter_policy"})

    assert "see subscription.dead_letter_policy" in said(await good.ask("permissions.forwarding"))


@pytest.mark.parametrize("check", CHECKS[:3])
async def test_an_emulator_that_knows_no_permissions_is_no_error(
    good: Good, storage: Storage, check: str
) -> None:
    findings = await good.ask(check)

    assert {finding.severity for finding in findings} == {Severity.SKIPPED}
    assert "emulators" in said(findings)


async def test_of_what_does_not_exist_no_permission_is_missed(good: Good) -> None:
    permit_all(good)

    assert worst(await good.ask("permissions.subscription", subscription="nothing")) is Severity.SKIPPED
    topics = {f.subject: f.severity for f in await good.ask("permissions.topics", results_topic="nothing")}
    assert topics == {f"{RESULTS[:-7]}nothing": Severity.SKIPPED, DEAD_LETTERS: Severity.OK}


async def test_who_may_consume_but_not_look_is_fine(good: Good) -> None:
    permit_all(good)
    good.server.fail("GetSubscription", grpc.StatusCode.PERMISSION_DENIED)
    good.server.fail("GetTopic", grpc.StatusCode.PERMISSION_DENIED)

    assert worst(await good.ask("permissions.subscription")) is Severity.OK
    assert worst(await good.ask("permissions.topics")) is Severity.OK


async def test_whose_permissions_they_are_is_said_and_who_lacks_them_is_named_in_the_command(
    good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    permit_all(good)
    good.server.permitted = {}
    connected, here = pubsub._connected, Endpoint(emulator=good.server.address)
    worker = "worker@nursery.iam.gserviceaccount.com"

    class OfAPod:
        """Credentials that learn whose they are with their first token, as those of the metadata server."""

        @property
        def service_account_email(self) -> str:
            return worker if good.server.calls("GetSubscription") else "default"

    monkeypatch.setattr(pubsub, "_connected", lambda _: replace(connected(here), credentials=OfAPod()))

    [identity] = await good.ask("permissions.identity", pubsub_emulator_host=None)
    [consume] = await good.ask("permissions.subscription", pubsub_emulator_host=None)

    assert (identity.severity, identity.found) == (Severity.INFO, worker)
    assert f" --member=serviceAccount:{worker} --role=roles/pubsub.subscriber" in consume.fix


async def test_an_emulator_asks_for_no_identity(good: Good) -> None:
    assert worst(await good.ask("permissions.identity")) is Severity.SKIPPED
