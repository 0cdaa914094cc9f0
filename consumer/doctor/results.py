"""The topic results are published to."""

from __future__ import annotations

from consumer.doctor.checks import Findings, Missing, check
from consumer.doctor.findings import error, ok, warning
from consumer.doctor.site import Site


@check("results.topic", fix="gcloud pubsub topics create {results_topic}")
async def topic(site: Site) -> Findings:
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
async def subscribers(site: Site) -> Findings:
    """Somebody subscribes to the results.

    What is published to a topic without a subscription is gone. Results stay in the bucket, and the backend
    is called back all the same.
    """
    attached = await site.pubsub.subscriptions_of(site.results_topic)
    if attached:
        yield ok(site.results_topic, f"read by {', '.join(attached)}")
    else:
        yield warning(site.results_topic, "nobody subscribes to it", "a subscription")
