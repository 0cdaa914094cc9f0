"""What the identity that runs this may do, and what Pub/Sub's own may.

They are those of the command's own credentials: run it in the worker's pod, else it speaks of somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TypeAlias

from consumer.doctor.checks import Findings, Forbidden, Skip, check
from consumer.doctor.findings import error, info, ok, skipped, warning
from consumer.doctor.site import Site

SERVICE_AGENT = re.compile(r"serviceAccount:service-\d+@gcp-sa-pubsub\.iam\.gserviceaccount\.com")
_ABOVE = frozenset({"roles/pubsub.editor", "roles/pubsub.admin", "roles/editor", "roles/owner"})
_PUBLISHERS = _ABOVE | {"roles/pubsub.publisher"}
_SUBSCRIBERS = _ABOVE | {"roles/pubsub.subscriber"}
_AGENT = (
    '"serviceAccount:service-$(gcloud projects describe {project} --format="value(projectNumber)")'
    '@gcp-sa-pubsub.iam.gserviceaccount.com"'
)
_Rights: TypeAlias = tuple[str, tuple[str, ...]]
_READS: _Rights = ("roles/storage.objectViewer", ("storage.objects.get", "storage.objects.list"))
_WRITES: _Rights = (
    "roles/storage.objectUser",
    ("storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list"),
)


@check("permissions.identity", fix="")
async def identity(site: Site) -> Findings:
    """Whose permissions are looked at is said.

    They are those of the credentials found here. The worker's are found in its pod:
    `kubectl exec deploy/mlworker -- mlworker doctor`.
    """
    if site.is_local:
        yield skipped("credentials", "an emulator asks for none")
        return
    who = await site.pubsub.identity()
    yield info("credentials", who or "they do not say whose they are")


@check(
    "permissions.subscription",
    fix="gcloud pubsub subscriptions add-iam-policy-binding {subscription} --member=MEMBER "
    "--role=roles/pubsub.subscriber",
)
async def subscription(site: Site) -> Findings:
    """The worker may consume from its subscription.

    Without it the worker is never ready.
    """
    with suppress(Forbidden):  # of what does not exist nothing is permitted either; `exists` says that
        await site.subscription()
    name = site.settings.subscription_path
    if await site.pubsub.permitted(name, ["pubsub.subscriptions.consume"]):
        yield ok(name, "pubsub.subscriptions.consume")
    else:
        yield error(
            name,
            "may not consume",
            "pubsub.subscriptions.consume",
            f"gcloud pubsub subscriptions add-iam-policy-binding {name} --member={await _member(site)} "
            "--role=roles/pubsub.subscriber",
        )


@check(
    "permissions.topics",
    fix="gcloud pubsub topics add-iam-policy-binding {results_topic} --member=MEMBER "
    "--role=roles/pubsub.publisher",
)
async def topics(site: Site) -> Findings:
    """The worker may publish results and dead letters.

    Without it, finished work is held, and nothing can be given up.
    """
    for name in dict.fromkeys((site.results_topic, site.dead_letter_topic)):
        try:
            with suppress(Forbidden):
                await site.pubsub.topic(name)
            permitted = await site.pubsub.permitted(name, ["pubsub.topics.publish"])
        except Skip as why:
            yield skipped(name, str(why))
            continue
        if permitted:
            yield ok(name, "pubsub.topics.publish")
        else:
            yield error(
                name,
                "may not publish",
                "pubsub.topics.publish",
                f"gcloud pubsub topics add-iam-policy-binding {name} --member={await _member(site)} "
                "--role=roles/pubsub.publisher",
            )


@check(
    "permissions.buckets",
    fix="gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=MEMBER "
    "--role=roles/storage.objectUser",
)
async def buckets(site: Site) -> Findings:
    """The worker may read, write, list and delete in BUCKET, and read and list in ALLOWED_BUCKETS.

    Listing matters: without it Cloud Storage does not say that a photo is missing, only that it is forbidden.
    Then one missing photo looks like a wrong set-up, for which everything is held.
    """
    for name in sorted({site.settings.bucket, *site.settings.input_buckets}):
        role, permissions = _WRITES if name == site.settings.bucket else _READS
        try:
            permitted = await site.storage_api.permitted(name, permissions)
        except Skip as why:
            yield skipped(f"gs://{name}", str(why))
            continue
        lacking = [permission for permission in permissions if permission not in permitted]
        if lacking:
            yield error(
                f"gs://{name}",
                f"lacks {', '.join(lacking)}",
                ", ".join(permissions),
                f"gcloud storage buckets add-iam-policy-binding gs://{name} --member={await _member(site)} "
                f"--role={role}",
            )
        else:
            yield ok(f"gs://{name}", ", ".join(permissions))


@check(
    "permissions.forwarding",
    fix=f"gcloud pubsub topics add-iam-policy-binding {{dead_letter_topic}} --member={_AGENT} "
    "--role=roles/pubsub.publisher && gcloud pubsub subscriptions add-iam-policy-binding {subscription} "
    f"--member={_AGENT} --role=roles/pubsub.subscriber",
)
async def forwarding(site: Site) -> Findings:
    """Pub/Sub itself may forward to the dead-letter topic.

    The dead-letter policy acts through Pub/Sub's service agent, which needs to publish to the topic and to
    ack in the subscription. Without both grants the policy does nothing, and says nothing.
    """
    name, found = site.settings.subscription_path, await site.subscription()
    if "dead_letter_policy" not in found or not found.dead_letter_policy.dead_letter_topic:
        raise Skip("no dead-letter policy (see subscription.dead_letter_policy)")
    agent = _AGENT.format_map(site.names)
    topic = found.dead_letter_policy.dead_letter_topic
    for resource, roles, role, kind in (
        (topic, _PUBLISHERS, "roles/pubsub.publisher", "topics"),
        (name, _SUBSCRIBERS, "roles/pubsub.subscriber", "subscriptions"),
    ):
        try:
            grants = await site.pubsub.grants(resource)
        except Skip as why:
            yield skipped(resource, str(why))
            continue
        if _is_granted(grants, roles):
            yield ok(resource, f"Pub/Sub's service agent has {role}")
        else:
            yield warning(
                resource,
                "Pub/Sub's service agent is granted nothing here",
                f"{role}, here or on the project",
                f"gcloud pubsub {kind} add-iam-policy-binding {resource} --member={agent} --role={role}",
            )


def _is_granted(grants: Mapping[str, frozenset[str]], roles: frozenset[str]) -> bool:
    return any(
        SERVICE_AGENT.fullmatch(member)
        for role, members in grants.items()
        if role in roles
        for member in members
    )


async def _member(site: Site) -> str:
    """Return who lacks the permission, as gcloud wants it; `MEMBER` if the credentials do not say."""
    who = await site.pubsub.identity()
    return f"serviceAccount:{who}" if "@" in who else "MEMBER"
