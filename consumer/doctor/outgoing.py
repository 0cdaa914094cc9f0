"""What the worker publishes: dead letters, the subscription in which they wait for people, and results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from consumer.doctor.checks import Findings, Missing, Skip, check
from consumer.doctor.findings import error, ok, seconds, warning
from consumer.doctor.site import Site
from consumer.doctor.subscription import DEFAULT_EXPIRY, DELETED_TOPIC, not_pulled_from

_UPDATE = "gcloud pubsub subscriptions update {dead_letter_subscription}"
_CREATE = (
    "gcloud pubsub subscriptions create {dead_letter_subscription} --topic={dead_letter_topic} "
    "--ack-deadline=600 --message-retention-duration=31d --expiration-period=never"
)
_ACK_DEADLINE = 600
_RETENTION = timedelta(days=31)


@check("dead_letters.topic", fix="gcloud pubsub topics create {dead_letter_topic}")
async def topic(site: Site) -> Findings:
    """DEAD_LETTER_TOPIC exists, and takes any message.

    Nothing is ever given up without it: what cannot succeed is kept and tried again until the topic is there.
    A schema would refuse the very messages that are dead-lettered for not being what was expected.
    """
    async for name in _topics(site):
        try:
            found = await site.pubsub.topic(name)
        except Missing as why:
            yield error(name, why.said_of(name), "a topic", f"gcloud pubsub topics create {name}")
            continue
        if found.schema_settings.schema:
            yield error(
                name,
                f"has the schema {found.schema_settings.schema}",
                "no schema",
                f"gcloud pubsub topics update {name} --clear-schema-settings",
            )
        else:
            yield ok(name, "exists")


@check("dead_letters.subscribers", fix=_CREATE)
async def subscribers(site: Site) -> Findings:
    """Somebody subscribes to the dead-letter topic.

    A topic without a subscription takes every message and forgets it at once: the dead letters are lost.
    """
    async for name in _topics(site):
        attached = await site.pubsub.subscriptions_of(name)
        if attached:
            yield ok(name, f"read by {', '.join(attached)}")
        else:
            yield error(name, "nobody subscribes to it: dead letters are lost", "a subscription")


@check("dead_letters.subscription", fix=_CREATE)
async def subscription(site: Site) -> Findings:
    """DEAD_LETTER_SUBSCRIPTION exists and is attached to the dead-letter topic.

    `mlworker dead-letters` lists, replays and discards what is in it.
    """
    if not site.settings.dead_letter_subscription:
        yield warning(
            "DEAD_LETTER_SUBSCRIPTION",
            "not set: `mlworker dead-letters` has nothing to read",
            f"a subscription of {site.dead_letter_topic}",
            f"`gcloud pubsub subscriptions create dead-letters --topic={site.dead_letter_topic} "
            "--ack-deadline=600 --message-retention-duration=31d --expiration-period=never`, and "
            "DEAD_LETTER_SUBSCRIPTION=dead-letters",
        )
        return
    name = site.dead_letter_subscription
    try:
        found = await site.dead_letters()
    except Missing as why:
        yield error(name, why.said_of(name), "a subscription")
        return
    if found.topic == DELETED_TOPIC:
        yield error(name, "its topic was deleted", f"attached to {site.dead_letter_topic}")
    elif found.topic != site.dead_letter_topic:
        yield error(
            name,
            f"attached to {found.topic}",
            f"{site.dead_letter_topic} (DEAD_LETTER_TOPIC)",
            "DEAD_LETTER_SUBSCRIPTION: a subscription of DEAD_LETTER_TOPIC",
        )
    else:
        yield ok(name, f"attached to {found.topic}")


@check("dead_letters.kind", fix="DEAD_LETTER_SUBSCRIPTION: a plain pull subscription of {dead_letter_topic}")
async def kind(site: Site) -> Findings:
    """It is a plain pull subscription: without filter, and without a dead-letter policy of its own.

    Looking at a dead letter counts as a delivery, so a policy would take it away after a few looks. A filter
    would have Pub/Sub ack what it does not let through.
    """
    name, found = site.dead_letter_subscription, await site.dead_letters()
    trouble = not_pulled_from(found) or ("has a filter" if found.filter else "")
    if trouble:
        yield error(name, trouble, "a plain pull subscription")
    if "dead_letter_policy" in found and found.dead_letter_policy.dead_letter_topic:
        yield error(
            name,
            f"has a dead-letter policy: after {found.dead_letter_policy.max_delivery_attempts} looks a dead "
            "letter is gone",
            "none",
            f"gcloud pubsub subscriptions update {name} --clear-dead-letter-policy",
        )
    elif not trouble:
        yield ok(name, "a plain pull subscription")


@check("dead_letters.retry_policy", fix=f"{_UPDATE} --clear-retry-policy")
async def retry_policy(site: Site) -> Findings:
    """It has no retry policy.

    Listing takes leases and gives them back; with a retry policy, what was listed hides until its rest is
    over.
    """
    if "retry_policy" in await site.dead_letters():
        yield warning(site.dead_letter_subscription, "has a retry policy: what was listed hides", "none")
    else:
        yield ok(site.dead_letter_subscription, "no retry policy")


@check("dead_letters.ack_deadline", fix=f"{_UPDATE} --ack-deadline=600")
async def ack_deadline(site: Site) -> Findings:
    """Its ack deadline is 600 s.

    People look at dead letters, and people are slow.
    """
    name, deadline = site.dead_letter_subscription, (await site.dead_letters()).ack_deadline_seconds
    if deadline < _ACK_DEADLINE:
        yield warning(name, f"ack deadline {deadline} s", f"{_ACK_DEADLINE} s")
    else:
        yield ok(name, f"ack deadline {deadline} s")


@check("dead_letters.retention", fix=f"{_UPDATE} --message-retention-duration=31d")
async def retention(site: Site) -> Findings:
    """It keeps dead letters for 31 days.

    That is the longest there is; what nobody replays until then is gone.
    """
    name, kept = site.dead_letter_subscription, (await site.dead_letters()).message_retention_duration
    if kept < _RETENTION:
        yield warning(name, f"keeps dead letters for {seconds(kept)}", seconds(_RETENTION))
    else:
        yield ok(name, f"keeps dead letters for {seconds(kept)}")


@check("dead_letters.expiration", fix=f"{_UPDATE} --expiration-period=never")
async def expiration(site: Site) -> Findings:
    """It never expires.

    In a good month nobody pulls dead letters: by default the subscription is then deleted, and the next dead
    letter is lost.
    """
    name, found = site.dead_letter_subscription, await site.dead_letters()
    ttl = found.expiration_policy.ttl if "expiration_policy" in found else DEFAULT_EXPIRY
    if ttl:
        yield error(name, f"is deleted after {seconds(ttl)} without a look at dead letters", "never")
    else:
        yield ok(name, "never expires")


@check("results.topic", fix="gcloud pubsub topics create {results_topic}")
async def results_topic(site: Site) -> Findings:
    """RESULTS_TOPIC exists, and takes every result.

    Work is finished and recorded without it, and then held until the topic is there.
    """
    name = site.results_topic
    try:
        found = await site.pubsub.topic(name)
    except Missing as why:
        yield error(name, why.said_of(name), "a topic")
        return
    if found.schema_settings.schema:
        yield warning(
            name,
            f"has the schema {found.schema_settings.schema}",
            "none, or one that a ProcessingResult fits: what does not is never published",
            f"gcloud pubsub topics update {name} --clear-schema-settings",
        )
    else:
        yield ok(name, "exists")


@check(
    "results.subscribers",
    fix="gcloud pubsub subscriptions create results --topic={results_topic} --expiration-period=never",
)
async def results_subscribers(site: Site) -> Findings:
    """Somebody subscribes to the results.

    What is published to a topic without a subscription is gone. Results stay in the bucket, and the backend
    is called back all the same.
    """
    attached = await site.pubsub.subscriptions_of(site.results_topic)
    if attached:
        yield ok(site.results_topic, f"read by {', '.join(attached)}")
    else:
        yield warning(site.results_topic, "nobody subscribes to it", "a subscription")


async def _topics(site: Site) -> AsyncIterator[str]:
    """Yield where dead letters go: the worker's topic, and that of the subscription's policy if another."""
    yield site.dead_letter_topic
    try:
        policy = (await site.subscription()).dead_letter_policy
    except Skip:
        return  # said elsewhere
    if policy.dead_letter_topic not in ("", DELETED_TOPIC, site.dead_letter_topic):
        yield policy.dead_letter_topic
