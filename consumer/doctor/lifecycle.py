"""The bucket's lifecycle: what deletes objects must leave alone what a replay may still ask for."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from consumer.doctor.checks import Findings, Skip, check
from consumer.doctor.findings import error, ok, seconds, warning
from consumer.doctor.site import Site
from consumer.doctor.storage_api import Bucket, LifecycleCondition, LifecycleRule
from contracts.request import check_tenant_id

_LONGEST_RETENTION = timedelta(days=31)
_ENDINGS = (".json", ".failed", ".attempts", ".claim")
_BEGINNING_OF_A_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EXEMPT = (
    "num_newer_versions",
    "days_since_noncurrent_time",
    "noncurrent_time_before",
    "days_since_custom_time",
    "custom_time_before",
)
"""Conditions that hold only for old versions, or for objects with a time that the worker never sets."""


@check(
    "bucket.lifecycle",
    fix="let the rule spare objects for as long as the subscriptions keep messages, or limit it by "
    "matchesPrefix: `gcloud storage buckets update gs://{bucket} --lifecycle-file=FILE`",
)
async def lifecycle(site: Site) -> Findings:
    """No lifecycle rule deletes the worker's records while their messages can still come again.

    The records (`{tenant}/results/…`) say what was done and delivered. If one is deleted before Pub/Sub
    forgets the message, a redelivery or a replay does the work anew and calls the backend back a second time.
    The same holds for `dead-letters/…`, the bodies of dead letters too large for a message.
    """
    bucket = await site.storage_api.bucket(site.settings.bucket)
    today, is_well = datetime.now(UTC).date(), True
    for what, fits, (kept, is_known) in (
        ("the worker's records", _could_be_a_record, await _longest(site)),
        ("large dead letters", _could_be_a_dead_letter, await _dead_letters(site)),
    ):
        for i, rule in enumerate(bucket.lifecycle.rule):
            spared = _spared(rule.condition, today)
            if spared < kept and _could_delete(rule, bucket) and fits(rule.condition):
                is_well = False
                yield (error if is_known else warning)(
                    f"gs://{bucket.name}",
                    f"lifecycle rule {i} deletes {what} after {seconds(spared)}",
                    f"not before {seconds(kept)}: for so long their messages can come again",
                )
    if is_well:
        yield ok(f"gs://{bucket.name}", "no rule deletes records too early")


def _spared(condition: LifecycleCondition, today: date) -> timedelta:
    """Return the least age of what the condition holds for: an object younger than that is spared."""
    ages = [condition.age or 0]
    if condition.created_before is not None:
        ages.append((today - condition.created_before).days)
    return timedelta(days=max(ages))


def _could_delete(rule: LifecycleRule, bucket: Bucket) -> bool:
    """Tell whether the rule deletes present objects, whatever their names and ages."""
    condition = rule.condition
    if rule.action.type != "Delete" or condition.is_live is False:
        return False
    if any(getattr(condition, name) is not None for name in _EXEMPT):
        return False
    return not condition.matches_storage_class or bucket.storage_class in condition.matches_storage_class


def _could_be_a_record(condition: LifecycleCondition) -> bool:
    by_prefix = not condition.matches_prefix or any(map(_begins_a_record, condition.matches_prefix))
    by_suffix = not condition.matches_suffix or any(
        ending.endswith(suffix) or suffix.endswith(ending)
        for suffix in condition.matches_suffix
        for ending in _ENDINGS
    )
    return by_prefix and by_suffix


def _begins_a_record(prefix: str) -> bool:
    """Tell whether the name of some tenant's record can begin so: `{tenant}/results/...`."""
    tenant, slash, rest = prefix.partition("/")
    if not slash:
        return not tenant or _BEGINNING_OF_A_TENANT.fullmatch(tenant) is not None
    try:
        check_tenant_id(tenant)
    except ValueError:
        return False
    return "results/".startswith(rest) or rest.startswith("results/")


def _could_be_a_dead_letter(condition: LifecycleCondition) -> bool:
    folder = "dead-letters/"
    by_prefix = not condition.matches_prefix or any(
        folder.startswith(prefix) or prefix.startswith(folder) for prefix in condition.matches_prefix
    )
    # They are called by a message's id, which has digits only.
    by_suffix = not condition.matches_suffix or any(map(str.isdecimal, condition.matches_suffix))
    return by_prefix and by_suffix


async def _longest(site: Site) -> tuple[timedelta, bool]:
    """Return for how long a message of the subscription can come again, and whether that is known."""
    try:
        found = await site.subscription()
    except Skip:
        return _LONGEST_RETENTION, False
    # A topic that keeps messages itself lets a subscription go back as far as that.
    of_topic = found.topic_message_retention_duration or timedelta(0)
    return max(found.message_retention_duration, of_topic), True


async def _dead_letters(site: Site) -> tuple[timedelta, bool]:
    try:
        return (await site.dead_letters()).message_retention_duration, True
    except Skip:
        return _LONGEST_RETENTION, False
