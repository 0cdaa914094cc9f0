"""Settings against each other: times that must fit into one another, and names that must differ.

A topic in two roles makes loops.
"""

from __future__ import annotations

from consumer.doctor.checks import Findings, check
from consumer.doctor.findings import error, info, ok, seconds, warning
from consumer.doctor.site import Site

_SAFE_LEASE = 60.0
_FENCED = 0.25
"""Of a lease's length: what must be left of it before something is told to the outside."""
_CLOSING = 20.0
"""Seconds after a drain: 10 for handing back (`worker.py`), 5 for closing (`serve.py`), 5 to spare."""
_AUTOSCALER_WAITS = 600.0


@check("time.lease", fix="LEASE_SECONDS=120", needs_network=False)
async def lease(site: Site) -> Findings:
    """A lease outlasts a stall of a minute.

    It need not outlast a run: the keeper extends it each quarter of LEASE_SECONDS for as long as the run goes
    on. But if the process stands still for longer than the other three quarters, the message is given to
    another worker while this one still works on it.
    """
    length = float(site.settings.lease_seconds)
    found = f"{seconds(length)}, extended every {seconds(length / 4)} for as long as a run goes on"
    if length < _SAFE_LEASE:
        yield warning("LEASE_SECONDS", found, f"at least {seconds(_SAFE_LEASE)}")
    else:
        yield ok("LEASE_SECONDS", found)


@check(
    "time.callback",
    fix="a smaller BACKEND_CALLBACK_TIMEOUT or a larger LEASE_SECONDS",
    needs_network=False,
)
async def callback(site: Site) -> Findings:
    """A callback ends before the lease does that was checked for it.

    Before a callback the worker makes sure that the message is its own for another quarter of LEASE_SECONDS.
    If the call may take longer, a worker that freezes meanwhile calls back beside the one that took over.
    Publishing may take a minute: a result that comes too late is the same again, under the same id, and the
    callback after it is made sure of anew.
    """
    covered = _FENCED * site.settings.lease_seconds
    timeout = site.settings.backend_callback_timeout
    found = f"{seconds(timeout)}; {seconds(covered)} of the lease are made sure of"
    if timeout > covered:
        yield warning("BACKEND_CALLBACK_TIMEOUT", found, f"at most {seconds(covered)}")
    else:
        yield ok("BACKEND_CALLBACK_TIMEOUT", found)


@check(
    "time.drain",
    fix="a smaller DRAIN_TIMEOUT, or a longer terminationGracePeriodSeconds and GRACE_PERIOD with it",
    needs_network=False,
)
async def drain(site: Site) -> Findings:
    """A drain fits into the pod's grace period, with 20 s left for handing back and closing.

    When the grace period is over the kubelet kills the process: work in flight is lost, and its messages come
    again only when their leases run out.
    """
    grace = site.settings.grace_period
    if site.settings.drain_mode == "abort":
        found = f"{seconds(grace)}, in which everything is handed back"
        if grace < _CLOSING:
            yield error(
                "GRACE_PERIOD",
                found,
                f"at least {seconds(_CLOSING)}",
                "a longer terminationGracePeriodSeconds of the pod, and GRACE_PERIOD with it",
            )
        else:
            yield ok("GRACE_PERIOD", found)
        return
    needed = site.settings.drain_timeout + _CLOSING
    found = f"up to {seconds(site.settings.drain_timeout)}; the pod is killed after {seconds(grace)}"
    if needed > grace:
        yield error("DRAIN_TIMEOUT", found, f"DRAIN_TIMEOUT + {seconds(_CLOSING)} ≤ GRACE_PERIOD")
    else:
        yield ok("DRAIN_TIMEOUT", found)
    if grace > _AUTOSCALER_WAITS:
        yield warning(
            "GRACE_PERIOD",
            f"{seconds(grace)}",
            f"at most {seconds(_AUTOSCALER_WAITS)}: the cluster autoscaler waits no longer for a node's pods",
            "a smaller DRAIN_TIMEOUT and GRACE_PERIOD",
        )


@check("time.pipeline", fix="a smaller PIPELINE_TIMEOUT, or a larger DRAIN_TIMEOUT", needs_network=False)
async def pipeline(site: Site) -> Findings:
    """A run that a drain interrupts is known to start over.

    What takes longer than DRAIN_TIMEOUT may be handed back unfinished at every rollout, and runs from its
    beginning on another pod. That uses up no attempt, but GPU time. Its other bound is how long messages are
    kept (`subscription.retention`). A step's timeout_s, times its tries, that does not fit into
    PIPELINE_TIMEOUT is found in presets and routes; a message that brings one along is given up.
    """
    longest, drained = site.settings.pipeline_timeout, site.settings.drain_timeout
    if site.settings.drain_mode == "finish" and longest > drained:
        yield info(
            "PIPELINE_TIMEOUT",
            f"a pipeline may take {seconds(longest)}, a drain waits {seconds(drained)}: longer runs "
            "start over at a rollout",
        )
    else:
        yield ok("PIPELINE_TIMEOUT", seconds(longest))


@check("time.hold", fix="HOLD_TIMEOUT=7200", needs_network=False)
async def hold(site: Site) -> Findings:
    """An outage is waited through for longer than it takes to notice it.

    Work that waits for a peer is handed back after HOLD_TIMEOUT. A short one hands the same messages back and
    takes them again all through an outage.
    """
    hold_timeout, not_found = site.settings.hold_timeout, site.settings.callback_not_found_wait
    least = max(60.0, not_found)
    if hold_timeout < least:
        yield warning("HOLD_TIMEOUT", seconds(hold_timeout), f"at least {seconds(least)}")
    else:
        yield ok("HOLD_TIMEOUT", seconds(hold_timeout))


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
