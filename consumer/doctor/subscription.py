"""The worker's subscription."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from consumer.doctor.checks import Findings, Missing, Unreachable, check
from consumer.doctor.findings import error, info, ok, seconds, warning
from consumer.doctor.pubsub import REACHABLE
from consumer.doctor.site import Site

DELETED_TOPIC = "_deleted-topic_"
LEAST_ATTEMPTS, BEST_ATTEMPTS = 20, 100
WEEK = timedelta(days=7)
DEFAULT_EXPIRY = timedelta(days=31)
_LEAST_BACKOFF, _BEST_BACKOFF = timedelta(seconds=1), timedelta(seconds=10)
_UPDATE = "gcloud pubsub subscriptions update {subscription}"


def not_pulled_from(found: Any) -> str:
    """Return why nothing can be pulled from a subscription (`google.pubsub_v1.types`); empty if it can."""
    if found.detached:
        return "detached from its topic"
    if found.push_config.push_endpoint:
        return f"pushes to {found.push_config.push_endpoint}"
    if found.bigquery_config.table:
        return f"writes to BigQuery: {found.bigquery_config.table}"
    if found.cloud_storage_config.bucket:
        return f"writes to gs://{found.cloud_storage_config.bucket}"
    return ""


@check(
    REACHABLE,
    fix="look at PUBSUB_EMULATOR_HOST, or at the credentials (`gcloud auth application-default login`; in "
    "a pod, its service account) and the way out to pubsub.googleapis.com:443",
)
async def reachable(site: Site) -> Findings:
    """Pub/Sub answers, and takes our credentials.

    Without it there is no work; the checks that need it are skipped.
    """
    where = site.settings.pubsub_emulator_host or "pubsub.googleapis.com"
    try:
        await site.pubsub.contact()
    except Unreachable as why:
        yield error(where, why.detail, "an answer")
    else:
        yield ok(where, "answers")


@check(
    "subscription.exists",
    fix="gcloud pubsub subscriptions create {subscription} --topic={requests_topic} --ack-deadline=60 "
    "--min-retry-delay=10s --max-retry-delay=600s --dead-letter-topic={dead_letter_topic} "
    "--max-delivery-attempts=100 --message-retention-duration=7d --expiration-period=never",
)
async def exists(site: Site) -> Findings:
    """SUBSCRIPTION exists.

    A worker without it is never ready.
    """
    try:
        await site.subscription()
    except Missing as why:
        name = site.settings.subscription_path
        yield error(name, why.said_of(name), "a subscription")
    else:
        yield ok(site.settings.subscription_path, "exists")


@check(
    "subscription.topic",
    fix="delete {subscription} and create it again for {requests_topic}: it cannot change its topic",
)
async def topic(site: Site) -> Findings:
    """Its topic exists, and is the one requests are published to.

    A subscription outlives its topic and then gets nothing, without any error.
    """
    attached = (await site.subscription()).topic
    if attached == DELETED_TOPIC:
        yield error(
            site.settings.subscription_path, "its topic was deleted: nothing arrives any more", "a topic"
        )
    elif site.requests_topic not in (None, attached):
        yield error(
            site.settings.subscription_path,
            f"attached to {attached}",
            f"{site.requests_topic} (REQUESTS_TOPIC)",
        )
    else:
        yield ok(site.settings.subscription_path, f"attached to {attached}")


@check(
    "subscription.kind",
    fix='gcloud pubsub subscriptions modify-push-config {subscription} --push-endpoint=""',
)
async def kind(site: Site) -> Findings:
    """It is pulled from, by nobody but workers.

    From a push, BigQuery, Cloud Storage or detached subscription nothing can be pulled.
    """
    name, found = site.settings.subscription_path, await site.subscription()
    if trouble := not_pulled_from(found):
        is_push = bool(found.push_config.push_endpoint) and not found.detached
        again = "" if is_push else f"delete {name} and create it again as a pull subscription"
        yield error(name, trouble, "a pull subscription", again)
    else:
        yield ok(name, "a pull subscription")


@check("subscription.ack_deadline", fix=f"{_UPDATE} --ack-deadline=60")
async def ack_deadline(site: Site) -> Findings:
    """A message just delivered stays leased until the worker's first extension.

    From then on the worker extends every lease itself. Until then, and for a worker killed in that moment,
    the subscription's own deadline counts; 10 s is the least there is.
    """
    name, deadline = site.settings.subscription_path, (await site.subscription()).ack_deadline_seconds
    if deadline < 30:
        yield info(name, f"ack deadline {deadline} s: enough as long as nothing stalls; 60 s is safer")
    else:
        yield ok(name, f"ack deadline {deadline} s")


@check("subscription.retry_policy", fix=f"{_UPDATE} --min-retry-delay=10s --max-retry-delay=600s")
async def retry_policy(site: Site) -> Findings:
    """A message that is handed back rests before it comes again.

    Without a retry policy it comes back at once: a bad minute of a peer uses up every attempt of a message in
    seconds, and a drain hands messages from pod to pod.
    """
    name, found = site.settings.subscription_path, await site.subscription()
    if "retry_policy" not in found:
        yield error(name, "no retry policy", "10 to 600 s")
        return
    least = found.retry_policy.minimum_backoff or timedelta(0)
    most = found.retry_policy.maximum_backoff or timedelta(0)
    shown = f"rests {seconds(least)} to {seconds(most)}"
    if least < _LEAST_BACKOFF:
        yield error(name, shown, "10 to 600 s; 1 s at the very least")
    elif least < _BEST_BACKOFF:
        yield info(name, f"{shown}; 10 to 600 s is what production needs")
    else:
        yield ok(name, shown)


@check(
    "subscription.dead_letter_policy",
    fix=f"{_UPDATE} --dead-letter-topic={{dead_letter_topic}} --max-delivery-attempts=100",
)
async def dead_letter_policy(site: Site) -> Findings:
    """A dead-letter policy of 100 attempts is the net below the worker's own count.

    The worker counts real attempts itself. The policy counts every delivery, also those a rollout or an
    outage handed back: with few attempts it takes good messages away. Without any, a message that kills the
    process before it can be counted comes back until it expires.
    """
    name, found = site.settings.subscription_path, await site.subscription()
    policy = found.dead_letter_policy
    if "dead_letter_policy" not in found or not policy.dead_letter_topic:
        yield error(name, "no dead-letter policy", f"{BEST_ATTEMPTS} attempts, then {site.dead_letter_topic}")
        return
    attempts = policy.max_delivery_attempts or 5
    if attempts < LEAST_ATTEMPTS:
        yield error(
            name,
            f"dead-letters after {attempts} deliveries",
            f"{BEST_ATTEMPTS}, at the very least {LEAST_ATTEMPTS}",
        )
    elif attempts < BEST_ATTEMPTS:
        yield info(name, f"dead-letters after {attempts} deliveries; {BEST_ATTEMPTS} is recommended")
    else:
        yield ok(name, f"dead-letters after {attempts} deliveries")
    if policy.dead_letter_topic == DELETED_TOPIC:
        yield error(name, "the dead-letter policy's topic was deleted", site.dead_letter_topic)
    elif policy.dead_letter_topic != site.dead_letter_topic:
        yield warning(
            name,
            f"dead-letters to {policy.dead_letter_topic}, where `mlworker dead-letters` does not look",
            f"{site.dead_letter_topic} (DEAD_LETTER_TOPIC)",
        )


@check("subscription.retention", fix=f"{_UPDATE} --message-retention-duration=7d")
async def retention(site: Site) -> Findings:
    """Messages are kept for longer than an outage is waited through.

    What was published longer ago than the retention may be deleted, leased or not: a message that waits out
    an outage and then runs is lost.
    """
    name, kept = site.settings.subscription_path, (await site.subscription()).message_retention_duration
    busy = timedelta(seconds=site.settings.hold_timeout + site.settings.pipeline_timeout)
    if kept <= busy:
        yield error(
            name,
            f"keeps messages for {seconds(kept)}",
            f"more than HOLD_TIMEOUT + PIPELINE_TIMEOUT ({seconds(busy)}), best 7 d",
        )
    elif kept < WEEK:
        yield warning(name, f"keeps messages for {seconds(kept)}", "at least 7 d")
    else:
        yield ok(name, f"keeps messages for {seconds(kept)}")


@check("subscription.expiration", fix=f"{_UPDATE} --expiration-period=never")
async def expiration(site: Site) -> Findings:
    """The subscription never expires.

    By default Pub/Sub deletes a subscription, with all that waits in it, after 31 days without a pull: a
    worker that is switched off for a season loses its set-up.
    """
    name, found = site.settings.subscription_path, await site.subscription()
    ttl = found.expiration_policy.ttl if "expiration_policy" in found else DEFAULT_EXPIRY
    if ttl:
        yield warning(name, f"is deleted after {seconds(ttl)} without a pull", "never")
    else:
        yield ok(name, "never expires")


@check("subscription.exactly_once", fix=f"{_UPDATE} --no-enable-exactly-once-delivery")
async def exactly_once(site: Site) -> Findings:
    """Exactly-once delivery is on or off: both work.

    The worker's own records keep work from being done twice; exactly-once only saves the second look, and
    costs throughput.
    """
    name = site.settings.subscription_path
    if (await site.subscription()).enable_exactly_once_delivery:
        yield info(name, "exactly-once delivery is on: it works, and costs throughput")
    else:
        yield ok(name, "exactly-once delivery is off")


@check(
    "subscription.ordering",
    fix="create another subscription without `--enable-message-ordering`: it cannot be switched off",
)
async def ordering(site: Site) -> Findings:
    """Messages are not ordered.

    The worker needs no order. With it, one message that rests or is dead-lettered holds up all later ones
    with its key.
    """
    name = site.settings.subscription_path
    if (await site.subscription()).enable_message_ordering:
        yield warning(name, "message ordering is on", "off: a failing message holds up those behind it")
    else:
        yield ok(name, "message ordering is off")


@check("subscription.filter", fix="create another subscription without `--message-filter`")
async def filtering(site: Site) -> Findings:
    """A filter is known of.

    What a filter does not let through is acked by Pub/Sub itself, and never seen.
    """
    name, filter_ = site.settings.subscription_path, (await site.subscription()).filter
    if filter_:
        yield info(name, f"delivers only what fits the filter {filter_!r}; the rest is dropped")
    else:
        yield ok(name, "no filter")
