"""What the identity that runs this may do, and what Pub/Sub's own may.

They are those of the command's own credentials: run it in the worker's pod, else it speaks of somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import TypeAlias

from consumer.doctor.checks import Findings, Forbidden, Skip, check
from consumer.doctor.findings import error, info, ok, skipped, warning
from consumer.doctor.site import Site

SERVICE_AGENT = re.compile(r"serviceAccount:service-\d+@gcp-sa-pubsub\.iam\.gserviceaccount\.com")
_ABOVE = frozenset({"roles/pubsub.editor", "roles/pubsub.admin", "roles/editor", "roles/owner"})
_PUBLISHER, _SUBSCRIBER = "roles/pubsub.publisher", "roles/pubsub.subscriber"
_TOPICS, _SUBSCRIPTIONS, _BUCKETS = "pubsub topics", "pubsub subscriptions", "storage buckets"
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


def _grant(what: str, name: str, member: str, role: str) -> str:
    """Return the command that grants a role on a resource of gcloud's."""
    return f"gcloud {what} add-iam-policy-binding {name} --member={member} --role={role}"


@check("permissions.identity", fix="")
async def identity(site: Site) -> Findings:
    """Whose permissions are looked at is said.

    They are those of the credentials found here. The worker's are found in its pod:
    `kubectl -n mlworker exec deploy/mlworker -- mlworker doctor`.
    """
    if site.is_local:
        yield skipped("credentials", "an emulator asks for none")
        return
    who = await site.pubsub.identity()
    yield info("credentials", who or "they do not say whose they are")


@check(
    "permissions.subscription",
    fix=_grant(_SUBSCRIPTIONS, "{subscription}", "MEMBER", _SUBSCRIBER),
)
async def subscription(site: Site) -> Findings:
    """The worker may consume from its subscription.

    Without it the worker is never ready.
    """
    with suppress(Forbidden):  # of what does not exist nothing is permitted either; `exists` says that
        await site.subscription()
    name = site.settings.subscription_path
    if await site.pubsub.permitted(name, "pubsub.subscriptions.consume"):
        yield ok(name, "pubsub.subscriptions.consume")
    else:
        yield error(
            name,
            "may not consume",
            "pubsub.subscriptions.consume",
            _grant(_SUBSCRIPTIONS, name, await _member(site), _SUBSCRIBER),
        )


@check(
    "permissions.topics",
    fix=_grant(_TOPICS, "{results_topic}", "MEMBER", _PUBLISHER),
)
async def topics(site: Site) -> Findings:
    """The worker may publish results and dead letters.

    Without it, finished work is held, and nothing can be given up.
    """
    for name in dict.fromkeys((site.results_topic, site.dead_letter_topic)):
        try:
            with suppress(Forbidden):
                await site.pubsub.topic(name)
            permitted = await site.pubsub.permitted(name, "pubsub.topics.publish")
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
                _grant(_TOPICS, name, await _member(site), _PUBLISHER),
            )


@check(
    "permissions.buckets",
    fix=_grant(_BUCKETS, "gs://{bucket}", "MEMBER", _WRITES[0]),
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
                _grant(_BUCKETS, f"gs://{name}", await _member(site), role),
            )
        else:
            yield ok(f"gs://{name}", ", ".join(permissions))


@check(
    "permissions.forwarding",
    fix=_grant(_TOPICS, "{dead_letter_topic}", _AGENT, _PUBLISHER)
    + " && "
    + _grant(_SUBSCRIPTIONS, "{subscription}", _AGENT, _SUBSCRIBER),
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
    for resource, role, kind in ((topic, _PUBLISHER, _TOPICS), (name, _SUBSCRIBER, _SUBSCRIPTIONS)):
        try:
            grants = await site.pubsub.grants(resource)
        except Skip as why:
            yield skipped(resource, str(why))
            continue
        if any(map(SERVICE_AGENT.fullmatch, _members(grants, _ABOVE | {role}))):
            yield ok(resource, f"Pub/Sub's service agent has {role}")
        else:
            yield warning(
                resource,
                "Pub/Sub's service agent is granted nothing here",
                f"{role}, here or on the project",
                _grant(kind, resource, agent, role),
            )


def _members(grants: Mapping[str, frozenset[str]], roles: frozenset[str]) -> Iterator[str]:
    return chain.from_iterable(members for role, members in grants.items() if role in roles)


async def _member(site: Site) -> str:
    """Return who lacks the permission, as gcloud wants it; `MEMBER` if the credentials do not say."""
    who = await site.pubsub.identity()
    return f"serviceAccount:{who}" if "@" in who else "MEMBER"
