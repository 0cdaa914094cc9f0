"""Metrics and the scaler: what is asked for is exported, and what is scaled is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.autoscaling import RECOMMENDED
from tests.command import ROOT
from tests.k8s.catalogue import check
from tests.k8s.checks_pod import ENDPOINTS
from tests.k8s.manifests import WORKER, Manifests

_METRIC = re.compile(r"\bmlworker_[a-z0-9_]+")
_RECORDED = re.compile(r"\bmlworker:[a-z0-9_:]+")
_IN_QUOTES = r'"([^"]*)"'


def exported() -> set[str]:
    """Every series of a worker's, by docs/metrics.md; tests/end_to_end/test_metrics.py keeps that true."""
    names = set()
    for name, kind in re.findall(
        r"^\| `(mlworker_\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M
    ):
        endings = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}.get(kind, ("",))
        names |= {f"{name}{ending}" for ending in endings}
    return names


EXPORTED = exported()


@check
def metrics_are_scraped_where_the_worker_answers(it: Manifests) -> Iterator[str]:
    for endpoint in it.one("PodMonitoring", WORKER)["spec"]["endpoints"]:
        if endpoint["path"] not in ENDPOINTS:
            yield f"{endpoint['path']} is none of {sorted(ENDPOINTS)}"
        if endpoint["port"] not in {port["name"] for port in it.container["ports"]}:
            yield f"the container has no port {endpoint['port']}"


@check
def every_rule_reads_metrics_that_are_exported(it: Manifests) -> Iterator[str]:
    for name, expression in _rules(it):
        for metric in sorted(set(_METRIC.findall(expression)) - EXPORTED):
            yield f"{name}: no worker exports {metric}"


@check
def every_rule_reads_rules_that_are_recorded(it: Manifests) -> Iterator[str]:
    recorded = {name for name, _ in _rules(it)}
    for name, expression in _rules(it):
        for rule in sorted(set(_RECORDED.findall(expression)) - recorded):
            yield f"{name}: nothing records {rule}"


@check
def rules_speak_of_this_workers_subscriptions_and_container(it: Manifests) -> Iterator[str]:
    namespace = it.deployment["metadata"]["namespace"]
    known = {
        "subscription_id": {it.settings.subscription, it.settings.dead_letter_subscription},
        "namespace_name": {namespace},
        "namespace": {namespace},
        "container_name": {it.container["name"]},
    }
    for name, expression in [*_rules(it), *_queries(it)]:
        for label, values in known.items():
            for value in re.findall(rf"\b{label}={_IN_QUOTES}", expression):
                if value not in values:
                    yield f"{name}: {label}={value}, not {values}"


@check
def the_scaler_asks_for_what_is_recorded_or_exported(it: Manifests) -> Iterator[str]:
    recorded = {name for name, _ in _rules(it)}
    for name, query in _queries(it):
        asked = {*_METRIC.findall(query), *_RECORDED.findall(query)}
        if not asked:
            yield f"trigger {name}: {query} asks for nothing of ours"
        yield from (f"trigger {name}: there is no {metric}" for metric in sorted(asked - recorded - EXPORTED))
        if not query.startswith("max("):
            yield f"trigger {name}: {query} may be several series, which KEDA takes for an error"


@check
def without_a_number_nothing_changes(it: Manifests) -> Iterator[str]:
    """The rules give none during an outage: it has to be an error, and no other number may take its place."""
    for scaler in it.all("ScaledObject"):
        if "fallback" in scaler["spec"]:
            yield f"fallback {scaler['spec']['fallback']}"
        for trigger in scaler["spec"]["triggers"]:
            metadata = trigger["metadata"]
            # Who is to be protected is nobody where nobody says so: that number must not hold up the other.
            for number, wanted in (("pods_wanted", "false"), ("pods_to_protect", "true")):
                said = metadata.get("ignoreNullValues")
                if number in metadata["query"] and said != wanted:
                    yield f"trigger {trigger['name']}: ignoreNullValues {said}"


@check
def the_scaler_takes_numbers_for_numbers_of_pods(it: Manifests) -> Iterator[str]:
    """As k8s/monitoring/README.md says of them: divided by nothing, and of all pods together."""
    for scaler in it.all("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            taken = trigger.get("metricType"), trigger["metadata"]["threshold"]
            if taken != ("AverageValue", "1"):
                yield f"trigger {trigger['name']}: {taken}"
        if scaler["spec"]["minReplicaCount"] < 1 and not it.project.endswith("-dev"):
            yield "without work there is no worker, and the first photo waits for a node"


@check
def the_scaler_alone_says_how_many_workers_there_are(it: Manifests) -> Iterator[str]:
    for scaler in it.all("ScaledObject"):
        name = scaler["spec"]["scaleTargetRef"]["name"]
        if "replicas" in it.one("Deployment", name)["spec"]:
            yield "the Deployment says a number too: every `kubectl apply` would set it back"
        for trigger in scaler["spec"]["triggers"]:
            it.one("TriggerAuthentication", trigger["authenticationRef"]["name"])
        if not any(grant["spec"]["role"] == "roles/monitoring.viewer" for grant in it.all("IAMPolicyMember")):
            yield "KEDA may not read metrics"


@check
def the_scaler_follows_as_it_was_reckoned_with(it: Manifests) -> Iterator[str]:
    """By docs/autoscaling.md, whose figures are of this behaviour and no other."""
    for scaler in it.all("ScaledObject"):
        behaviour = scaler["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for way, window, policy in (
            ("scaleUp", 0, RECOMMENDED.up),
            ("scaleDown", RECOMMENDED.window, RECOMMENDED.down),
        ):
            wanted = [
                {"type": "Pods", "value": policy.pods, "periodSeconds": policy.period},
                {"type": "Percent", "value": policy.percent, "periodSeconds": policy.period},
            ]
            if behaviour[way] != {"stabilizationWindowSeconds": window, "policies": wanted}:
                yield f"{way}: {behaviour[way]}"


@check
def without_work_there_is_no_worker_in_development(it: Manifests) -> Iterator[str]:
    if not it.project.endswith("-dev"):
        return
    [scaler] = it.all("ScaledObject")
    if scaler["spec"]["minReplicaCount"] != 0:
        yield f"minReplicaCount {scaler['spec']['minReplicaCount']}"
    for trigger in scaler["spec"]["triggers"]:
        if trigger["metadata"]["activationThreshold"] != "0":
            yield f"trigger {trigger['name']}: a single message starts no worker"


def _rules(it: Manifests) -> list[tuple[str, str]]:
    """Every rule: what it records, or the alert's name, and its expression."""
    return [
        (rule.get("record") or rule["alert"], rule["expr"])
        for document in it.all("GlobalRules")
        for group in document["spec"]["groups"]
        for rule in group["rules"]
    ]


def _queries(it: Manifests) -> list[tuple[str, str]]:
    return [
        (trigger["name"], trigger["metadata"]["query"])
        for scaler in it.all("ScaledObject")
        for trigger in scaler["spec"]["triggers"]
    ]
