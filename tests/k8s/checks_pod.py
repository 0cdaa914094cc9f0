"""The pod: what runs in it, how it is probed and ended, what it may write to, what it gets."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from consumer.ops.health import Probes, health_app
from consumer.ops.memory_limit import photo_memory
from consumer.worker import ABORT_DELIVERY, ABORT_HAND_BACK
from tests.k8s.catalogue import check
from tests.k8s.manifests import WORKER, Manifests, bytes_of, selects

ENDPOINTS = {route.path for route in health_app(Probes({}, {}, {}), CollectorRegistry()).routes}
"""Every path that the worker answers."""
PROBES = {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}

AUTOSCALER_WAITS = 600
"""Seconds that the cluster autoscaler gives a pod, whatever its grace period."""
SPOT_NOTICE = 15
"""Seconds that a pod on a Spot node has from the notice on."""
STALL = 60
"""Seconds of standing still that cost no lease: `time.lease` of the doctor."""
SHORTEST_START = 600
"""Seconds that a start may take at the very least: gigabytes of weights on a cold disk, and a warm-up."""
READY_WITHIN = 30
"""Seconds within which a worker that is ready should be seen to be."""
BYTES_A_PIXEL = 3


@check
def the_worker_is_told_its_grace_period(it: Manifests) -> Iterator[str]:
    grace = it.pod["terminationGracePeriodSeconds"]
    if grace != it.settings.grace_period:
        yield f"terminationGracePeriodSeconds is {grace}, GRACE_PERIOD {it.settings.grace_period:g}"
    if grace > AUTOSCALER_WAITS:
        yield f"terminationGracePeriodSeconds is {grace}; the cluster autoscaler waits {AUTOSCALER_WAITS} s"


@check
def each_probe_asks_what_the_worker_answers(it: Manifests) -> Iterator[str]:
    for probe, path in PROBES.items():
        asked = it.container[probe]["httpGet"]
        if asked["path"] not in ENDPOINTS:
            yield f"{probe}: {asked['path']} is none of {sorted(ENDPOINTS)}"
        elif asked["path"] != path:
            yield f"{probe}: {asked['path']}, not {path}"
        if asked["port"] not in ("http", it.port):
            yield f"{probe}: port {asked['port']}, not http"


@check
def the_container_has_the_port_that_the_worker_listens_on(it: Manifests) -> Iterator[str]:
    if it.port != it.settings.port:
        yield f"containerPort {it.port}; PORT is {it.settings.port}"


@check
def a_worker_that_only_stalls_is_not_killed(it: Manifests) -> Iterator[str]:
    probe = it.container["livenessProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    if patience < STALL:
        yield f"killed after {patience} s without an answer; a stall of {STALL} s costs no lease"


@check
def a_start_has_time_for_large_models_and_a_rollout_for_the_start(it: Manifests) -> Iterator[str]:
    probe = it.container["startupProbe"]
    patience = probe["periodSeconds"] * probe["failureThreshold"]
    if patience < SHORTEST_START:
        yield f"killed {patience} s after it began to start"
    if it.deployment["spec"]["progressDeadlineSeconds"] < patience + SHORTEST_START:
        yield "a rollout is given up before a node was made and a worker has started"


@check
def no_container_may_do_more_than_it_must(it: Manifests) -> Iterator[str]:
    pod = it.pod["securityContext"]
    if not pod.get("runAsNonRoot") or pod.get("runAsUser", 0) < 10_000:
        yield "the pod may run as root, or as an account of the node's"
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "no seccomp profile"
    if it.pod.get("automountServiceAccountToken") is not False:
        yield "a token of the Kubernetes API is mounted"
    if it.pod.get("enableServiceLinks") is not False:
        yield "every Service adds variables to the environment, which is where settings are read"
    for container in it.containers:
        allowed = container["securityContext"]
        if allowed.get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']}: may gain privileges"
        if not allowed.get("readOnlyRootFilesystem"):
            yield f"{container['name']}: its root file system can be written to"
        if allowed.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']}: keeps capabilities"


@check
def the_namespace_takes_no_pod_that_may_do_more(it: Manifests) -> Iterator[str]:
    [namespace] = it.all("Namespace")
    enforced = namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
    if enforced != "restricted":
        yield f"pod-security.kubernetes.io/enforce is {enforced}"


@check
def a_worker_that_is_ready_is_soon_seen_to_be(it: Manifests) -> Iterator[str]:
    """A rollout waits for it, pod by pod."""
    if (period := it.container["readinessProbe"]["periodSeconds"]) > READY_WITHIN:
        yield f"readinessProbe: asked every {period} s"


@check
def what_must_be_writable_is(it: Manifests) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in it.pod["volumes"]}
    for path in ("/tmp", "/dev/shm"):
        mounts = [mount for mount in it.container["volumeMounts"] if mount["mountPath"] == path]
        if not mounts or mounts[0].get("readOnly") or "emptyDir" not in volumes[mounts[0]["name"]]:
            yield f"{path} cannot be written to"
        elif "sizeLimit" not in volumes[mounts[0]["name"]]["emptyDir"]:
            yield f"{path} may fill the node's disk or memory"


@check
def a_pod_has_one_gpu_and_a_node_for_it(it: Manifests) -> Iterator[str]:
    resources = it.container["resources"]
    for kind in ("requests", "limits"):
        if resources[kind].get("nvidia.com/gpu") != "1":
            yield f"{kind}: {resources[kind].get('nvidia.com/gpu')} GPUs"
    if "cloud.google.com/gke-accelerator" not in it.pod["nodeSelector"]:
        yield "any node will do"
    if not _tolerates(it, "nvidia.com/gpu", "present"):
        yield "nodes with GPUs turn it away"
    if len(it.settings.devices) != 1 or not it.settings.devices[0].startswith("cuda"):
        yield f"DEVICES: {','.join(it.settings.devices)}: not the GPU, and nothing says so when it is missing"


@check
def a_worker_on_spot_nodes_is_ready_to_go_at_once(it: Manifests) -> Iterator[str]:
    is_spot = it.pod["nodeSelector"].get("cloud.google.com/gke-spot") == "true"
    if is_spot and not _tolerates(it, "cloud.google.com/gke-spot", "true"):
        yield "Spot nodes turn it away"
    if is_spot != (it.settings.drain_mode == "abort"):
        yield f"on Spot nodes: {is_spot}; DRAIN_MODE={it.settings.drain_mode}"
    if (handing_back := ABORT_DELIVERY + ABORT_HAND_BACK) > SPOT_NOTICE:
        yield f"handing back takes up to {handing_back:g} s; a Spot node leaves {SPOT_NOTICE}"


@check
def the_largest_photo_fits_into_the_memory_for_photos(it: Manifests) -> Iterator[str]:
    limit = bytes_of(it.container["resources"]["limits"]["memory"])
    decoded = it.settings.max_image_pixels * BYTES_A_PIXEL
    if decoded > (it.settings.decoded_memory or photo_memory(limit)):
        yield f"a photo of MAX_IMAGE_PIXELS needs {decoded} bytes; of {limit} a quarter is for photos"
    if it.container["resources"]["requests"]["memory"] != it.container["resources"]["limits"]["memory"]:
        yield "memory is not requested as it is limited: the pod is evicted when the node runs out"


@check
def what_is_written_to_disk_fits_on_it(it: Manifests) -> Iterator[str]:
    volumes = [volume["emptyDir"] for volume in it.pod["volumes"] if "emptyDir" in volume]
    written = sum(bytes_of(volume["sizeLimit"]) for volume in volumes if volume.get("medium") != "Memory")
    if written > bytes_of(it.container["resources"]["limits"]["ephemeral-storage"]):
        yield f"volumes of {written} bytes, with which the pod is evicted for its ephemeral storage"


@check
def the_files_that_settings_name_are_mounted(it: Manifests) -> Iterator[str]:
    for setting in ("ROUTES_FILE", "PRESETS_FILE"):
        if not it.file(it.environment[setting]):
            yield f"{setting} is empty"


@check
def whatever_selects_the_worker_selects_its_pods(it: Manifests) -> Iterator[str]:
    labels = it.template["metadata"]["labels"]
    spread = it.pod["topologySpreadConstraints"]
    selectors = {
        "the Deployment": it.deployment["spec"]["selector"],
        "the PodDisruptionBudget": it.one("PodDisruptionBudget", WORKER)["spec"]["selector"],
        "the NetworkPolicy": it.one("NetworkPolicy", WORKER)["spec"]["podSelector"],
        "the PodMonitoring": it.one("PodMonitoring", WORKER)["spec"]["selector"],
        **{f"the spread over {rule['topologyKey']}": rule["labelSelector"] for rule in spread},
    }
    for what, selector in selectors.items():
        if not selects(selector, labels):
            yield f"{what} selects other pods"


@check
def a_rollout_takes_no_worker_away_before_another_is_ready(it: Manifests) -> Iterator[str]:
    """Unless there is only ever one, for which there may be only one GPU."""
    spec = it.deployment["spec"]
    scalers = it.all("ScaledObject")
    most = scalers[0]["spec"]["maxReplicaCount"] if scalers else spec["replicas"]
    if most > 1 and (spec["strategy"]["rollingUpdate"] != {"maxSurge": 1, "maxUnavailable": 0}):
        yield f"{spec['strategy']['rollingUpdate']}"


@check
def nodes_can_be_emptied_one_worker_at_a_time(it: Manifests) -> Iterator[str]:
    budget = it.one("PodDisruptionBudget", WORKER)["spec"]
    if budget.get("maxUnavailable") != 1:
        yield f"maxUnavailable: {budget.get('maxUnavailable')}"
    if budget.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
        yield "a pod that never becomes ready keeps its node from being emptied"


def _tolerates(it: Manifests, key: str, value: str) -> bool:
    wanted = {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
    return wanted in it.pod.get("tolerations", [])
