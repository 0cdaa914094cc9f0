"""Which name stands for what: a topic in two roles makes loops."""

from __future__ import annotations

from consumer.doctor.checks import Findings, check
from consumer.doctor.findings import error, ok
from consumer.doctor.site import Site


@check(
    "names.topics",
    fix="give RESULTS_TOPIC, DEAD_LETTER_TOPIC and REQUESTS_TOPIC a topic each",
    needs_network=False,
)
async def topics(site: Site) -> Findings:
    """Requests, results and dead letters have topics of their own.

    Results or dead letters that come back as requests fail, become dead letters, and come back again, for
    ever.
    """
    roles = {
        "REQUESTS_TOPIC": site.requests_topic,
        "RESULTS_TOPIC": site.results_topic,
        "DEAD_LETTER_TOPIC": site.dead_letter_topic,
    }
    used = [name for name in roles.values() if name is not None]
    for topic in sorted({name for name in used if used.count(name) > 1}):
        sharing = [setting for setting, name in roles.items() if name == topic]
        yield error(" = ".join(sharing), topic, "a topic each")
    if len(set(used)) == len(used):
        yield ok(", ".join(setting for setting, name in roles.items() if name), "a topic each")


@check("names.loop", fix="attach {subscription} to the topic that requests are published to")
async def loop(site: Site) -> Findings:
    """The worker does not read what it writes.

    A subscription attached to the results or the dead-letter topic gives the worker its own messages.
    """
    topic = (await site.subscription()).topic
    written = {site.results_topic: "RESULTS_TOPIC", site.dead_letter_topic: "DEAD_LETTER_TOPIC"}
    if topic in written:
        yield error(
            site.settings.subscription_path,
            f"attached to {topic}, which is {written[topic]}",
            "another topic",
        )
    else:
        yield ok(site.settings.subscription_path, f"attached to {topic}")


@check(
    "names.subscriptions",
    fix="DEAD_LETTER_SUBSCRIPTION: another one than SUBSCRIPTION",
    needs_network=False,
)
async def subscriptions(site: Site) -> Findings:
    """The worker does not pull the dead letters.

    It would try them again at once, and `mlworker dead-letters` would take away its messages.
    """
    if site.dead_letter_subscription == site.settings.subscription_path:
        yield error(
            "DEAD_LETTER_SUBSCRIPTION",
            f"the same as SUBSCRIPTION: {site.dead_letter_subscription}",
            "another",
        )
    else:
        yield ok("DEAD_LETTER_SUBSCRIPTION", site.dead_letter_subscription)
