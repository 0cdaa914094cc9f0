"""The network policy: the worker reaches what it needs, and nothing else; hardly anybody reaches it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.k8s.catalogue import check
from tests.k8s.manifests import Document, Manifests

_BY_NAME = "kubernetes.io/metadata.name"
"""A label that every namespace has."""
_NAME_SERVERS = {"kube-dns", "node-local-dns"}
"""Pods that a cluster's name service may be; with Dataplane V2 a policy counts which of them answers."""
_ALWAYS_NEEDED = {
    *((f"169.254.{host}/32", 53, protocol) for host in ("20.10", "169.254") for protocol in ("UDP", "TCP")),
    *(("169.254.169.254/32", port, "TCP") for port in (80, 8080)),
    *(("169.254.169.252/32", port, "TCP") for port in (987, 988)),
}
"""Name servers on the node, and the metadata server under both of its addresses."""
_PRIVATE = {
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "240.0.0.0/4",
}  # fmt: skip
_COLLECTORS = {"gmp-system", "gke-gmp-system"}
"""Namespaces of managed Prometheus."""


@check
def the_network_lets_the_worker_reach_what_it_needs(it: Manifests) -> Iterator[str]:
    """Google's APIs, the backend, the metadata server, name servers, and the collector of traces if any."""
    egress = it.one("NetworkPolicy", "mlworker")["spec"]["egress"]
    to_internet = {
        port["port"]
        for rule in egress
        for peer in rule["to"]
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
        for port in rule["ports"]
    }
    ports = {(port["port"], port["protocol"]) for rule in egress for port in rule["ports"]}
    if 443 not in to_internet:
        yield "Google's APIs are out of reach: no egress to the internet at 443"
    backend = it.settings.backend_url
    if backend != "none" and (backend.port, "TCP") not in ports:
        yield f"BACKEND_URL: no egress to port {backend.port}"
    collector = it.settings.otel_exporter_otlp_endpoint
    if collector and (collector.port, "TCP") not in ports:
        yield f"OTEL_EXPORTER_OTLP_ENDPOINT: no egress to port {collector.port}"
    within = {None, *_namespaces(egress)}
    for url in (backend, collector):
        if url and url != "none" and _namespace_of(url.host or "") not in within:
            yield f"{url}: no egress to its namespace"
    reached = {
        (peer.get("ipBlock", {}).get("cidr"), port["port"], port["protocol"])
        for rule in egress
        for peer in rule["to"]
        for port in rule["ports"]
    }
    for cidr, port, protocol in sorted(_ALWAYS_NEEDED - reached):
        yield f"no egress to {cidr} at {port} ({protocol})"
    for name in sorted(_NAME_SERVERS - _pods(egress, "kube-system", 53)):
        yield f"name servers: no egress to the pods {name}"


@check
def the_network_keeps_the_worker_from_everything_else(it: Manifests) -> Iterator[str]:
    spec = it.one("NetworkPolicy", "mlworker")["spec"]
    if set(spec["policyTypes"]) != {"Ingress", "Egress"}:
        yield f"policyTypes {spec['policyTypes']}: the other way is open"
    outside = {443} | {
        url.port
        for url in (it.settings.backend_url, it.settings.otel_exporter_otlp_endpoint)
        if url and url != "none"
    }
    for rule in spec["egress"]:
        for peer in rule["to"]:
            block = peer.get("ipBlock", {})
            if block.get("cidr") == "0.0.0.0/0":
                excepted = set(block.get("except", ()))
                yield from (f"{cidr} can be reached" for cidr in sorted(_PRIVATE - excepted))
                ports = {(port["port"], port.get("endPort")) for port in rule["ports"]}
                yield from (f"ports {port}" for port in ports - {(one, None) for one in outside})


@check
def nobody_reaches_the_worker_but_who_collects_metrics(it: Manifests) -> Iterator[str]:
    for rule in it.one("NetworkPolicy", "mlworker")["spec"]["ingress"]:
        peers = rule.get("from", [])
        if not peers:
            yield "anybody"
        for peer in peers:
            wanted = peer.get("namespaceSelector", {}).get("matchExpressions", [])
            names = {
                name
                for one in wanted
                if (one["key"], one["operator"]) == (_BY_NAME, "In")
                for name in one["values"]
            }
            if not names or names - _COLLECTORS:
                yield f"{peer}"


def _namespace_of(host: str) -> str | None:
    """Return the namespace that a Service's name speaks of; None where it is no Service's."""
    _, dot, namespace = host.removesuffix(".svc.cluster.local").partition(".")
    return namespace if dot and host.endswith(".svc.cluster.local") else None


def _namespaces(egress: list[Document]) -> set[str]:
    """Every namespace that is named by its own name."""
    selectors = [peer.get("namespaceSelector", {}) for rule in egress for peer in rule["to"]]
    return {it["matchLabels"][_BY_NAME] for it in selectors if _BY_NAME in it.get("matchLabels", {})}


def _pods(egress: list[Document], namespace: str, port: int) -> set[str]:
    """The `k8s-app` of pods in a namespace that are reached at a port."""
    found: set[str] = set()
    for rule in egress:
        if {(port, "UDP"), (port, "TCP")} <= {(one["port"], one["protocol"]) for one in rule["ports"]}:
            for peer in rule["to"]:
                if _namespaces([{"to": [peer]}]) == {namespace}:
                    selector = peer["podSelector"]
                    found |= {selector.get("matchLabels", {}).get("k8s-app", "")}
                    for wanted in selector.get("matchExpressions", ()):
                        if (wanted["key"], wanted["operator"]) == ("k8s-app", "In"):
                            found |= set(wanted["values"])
    return found
