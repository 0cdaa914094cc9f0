"""What Config Connector makes: it fits together, outlives its manifest, and allows no more than it must.

Times, policies and permissions are the doctor's to judge (`doctor.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.k8s.catalogue import check
from tests.k8s.manifests import Manifests

_LASTING = ("PubSubTopic", "PubSubSubscription", "StorageBucket")
_REFERENCES = {
    "topicRef": "PubSubTopic",
    "deadLetterTopicRef": "PubSubTopic",
    "bucketRef": "StorageBucket",
    "serviceAccountRef": "IAMServiceAccount",
    "serviceIdentityRef": "ServiceIdentity",
}
_MARKS = (".claim", ".attempts", ".failed")


@check
def what_is_deleted_here_stays_at_google(it: Manifests) -> Iterator[str]:
    for kind in _LASTING:
        for document in it.all(kind):
            annotations = document["metadata"].get("annotations", {})
            if annotations.get("cnrm.cloud.google.com/deletion-policy") != "abandon":
                yield f"{kind} {document['metadata']['name']} is deleted with all that is in it"


@check
def what_is_deleted_at_google_can_be_brought_back(it: Manifests) -> Iterator[str]:
    """For as long as docs/operations.md, 15, says."""
    for bucket in it.all("StorageBucket"):
        seconds = bucket["spec"]["softDeletePolicy"]["retentionDurationSeconds"]
        if seconds < 7 * 86_400:
            yield f"StorageBucket {bucket['metadata']['name']}: gone for good after {seconds} s"


@check
def what_google_makes_can_be_applied_before_the_workers(it: Manifests) -> Iterator[str]:
    """By a label, which the namespace has too, for it says in which project; docs/operations.md, 5."""
    for document in it.documents:
        comes_first = "cnrm.cloud.google.com" in document["apiVersion"] or document["kind"] == "Namespace"
        label = document["metadata"].get("labels", {}).get("app.kubernetes.io/component")
        if comes_first != (label == "cloud"):
            yield f"{document['kind']} {document['metadata']['name']}: app.kubernetes.io/component is {label}"


@check
def every_reference_leads_to_something(it: Manifests) -> Iterator[str]:
    for document in it.documents:
        if "cnrm.cloud.google.com" not in document["apiVersion"]:
            continue
        for kind, name in _references(document.get("spec", {})):
            if name not in {found["metadata"]["name"] for found in it.all(kind)}:
                yield f"{document['kind']} {document['metadata']['name']} refers to {kind} {name}: not there"


@check
def the_pods_are_the_workers_account(it: Manifests) -> Iterator[str]:
    """Workload Identity: the pod's ServiceAccount, Google's account, and the grant between them."""
    name = it.pod["serviceAccountName"]
    account = it.one("ServiceAccount", name)
    [google] = it.all("IAMServiceAccount")
    email = f"{google['metadata']['name']}@{it.project}.iam.gserviceaccount.com"
    said = account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
    if said != email:
        yield f"ServiceAccount {name} is to be {said}; the account is {email}"
    member = f"serviceAccount:{it.project}.svc.id.goog[{account['metadata']['namespace']}/{name}]"
    wanted = ("IAMServiceAccount", google["metadata"]["name"], "roles/iam.workloadIdentityUser")
    if wanted not in set(it.grants(member)):
        yield f"{member} is not granted {wanted}"


@check
def the_worker_may_do_no_more_than_it_must(it: Manifests) -> Iterator[str]:
    """Whoever writes into the models' bucket owns the workers; into the photos', says what they look at."""
    [google] = it.all("IAMServiceAccount")
    allowed = {
        ("PubSubSubscription", it.settings.subscription, "roles/pubsub.subscriber"),
        ("PubSubTopic", it.settings.results_topic, "roles/pubsub.publisher"),
        ("PubSubTopic", it.settings.dead_letter_topic, "roles/pubsub.publisher"),
    }
    for bucket in it.all("StorageBucket"):
        name = bucket["metadata"]["name"]
        allowed.add(("StorageBucket", name, "roles/storage.objectViewer"))
        if bucket["spec"]["resourceID"] == it.settings.bucket:
            allowed.add(("StorageBucket", name, "roles/storage.objectUser"))
    for grant in set(it.grants(f"account:{google['metadata']['name']}")) - allowed:
        yield " ".join(grant)
    for bucket in it.all("StorageBucket"):
        spec = bucket["spec"]
        if not spec.get("uniformBucketLevelAccess") or spec.get("publicAccessPrevention") != "enforced":
            yield f"StorageBucket {bucket['metadata']['name']} may be read by others than IAM says"


@check
def only_the_backend_and_cloud_storage_publish_requests(it: Manifests) -> Iterator[str]:
    """Whoever publishes may name any tenant (docs/security.md)."""
    topic = it.settings.requests_topic
    members = [
        grant["spec"].get("member", "")
        for grant in it.all("IAMPolicyMember")
        if (grant["spec"]["resourceRef"]["kind"], grant["spec"]["resourceRef"].get("name"))
        == ("PubSubTopic", topic)
    ]
    storage = [
        member for member in members if member.endswith("@gs-project-accounts.iam.gserviceaccount.com")
    ]
    if it.all("StorageNotification") and not storage:
        yield "Cloud Storage may not publish requests: photos land, and nothing happens"
    if len(members) - len(storage) != 1:
        yield f"published by {', '.join(members)}"


@check
def marks_outlive_every_message_that_may_ask_for_them(it: Manifests) -> Iterator[str]:
    """A message waits in its subscription, and then as a dead letter, before it is replayed."""
    days = sum(
        int(it.one("PubSubSubscription", name)["spec"]["messageRetentionDuration"].removesuffix("s")) / 86_400
        for name in (it.settings.subscription, it.settings.dead_letter_subscription or "")
    )
    for bucket in it.all("StorageBucket"):
        for rule in bucket["spec"].get("lifecycleRule", ()):
            concerned = set(rule["condition"].get("matchesSuffix", ())) & set(_MARKS)
            if concerned and rule["condition"].get("age", 0) < days:
                yield f"{sorted(concerned)} are deleted after {rule['condition']['age']} days, not {days:g}"


def _references(spec: Any) -> Iterator[tuple[str, str]]:
    if isinstance(spec, list):
        for item in spec:
            yield from _references(item)
    if not isinstance(spec, dict):
        return
    for key, value in spec.items():
        if key in _REFERENCES and "name" in value:
            yield _REFERENCES[key], value["name"]
        elif key == "resourceRef" and "name" in value:
            yield value["kind"], value["name"]
        else:
            yield from _references(value)
