"""What `mlworker doctor` would say of a set-up made from the manifests, without making it.

The checks are the doctor's own; only the peers that it asks are replaced by what the manifests say of them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.pubsub_v1 import types
from pydantic import ValidationError

from consumer.doctor.checks import Check, Missing
from consumer.doctor.examination import CATALOGUE, examine
from consumer.doctor.findings import Severity
from consumer.doctor.site import Site
from consumer.doctor.storage_api import Bucket, Notification
from consumer.models.manifest import Manifest, parse_manifest
from tests.k8s.manifests import Document, Manifests

_NEEDS_A_CLUSTER = {
    "pubsub.reachable",
    "permissions.identity",
    "bucket.readable",
    "bucket.writable",
    "models.weights",
    "models.devices",
    "callback.reachable",
    "callback.certificate",
    "callback.key",
    "callback.oidc",
    "clock.skew",
}
"""They look at the machine, or at what answers."""
_RECOMMENDED = {"subscription.ack_deadline", "subscription.retry_policy", "subscription.dead_letter_policy"}
"""Of these also what is only less than recommended counts: our manifests are what is recommended."""
_SAME = {"dead_letters.subscription": "dead_letters.subscribers"}
"""One mistake, which the doctor sees from both ends."""

ASKED: Sequence[Check] = [check for check in CATALOGUE if check.id not in _NEEDS_A_CLUSTER]

ROLES = {
    "roles/pubsub.subscriber": {"pubsub.subscriptions.consume"},
    "roles/pubsub.publisher": {"pubsub.topics.publish"},
    "roles/storage.objectViewer": {"storage.objects.get", "storage.objects.list"},
    "roles/storage.objectUser": {
        f"storage.objects.{it}" for it in ("create", "delete", "get", "list", "update")
    },
    "roles/storage.admin": {f"storage.objects.{it}" for it in ("create", "delete", "get", "list", "update")},
}
"""Of Google's roles, the permissions that the worker needs."""


def wrong_by_the_doctor(manifests: Manifests) -> Mapping[str, list[str]]:
    """Return what the doctor would have changed, by `doctor: ` and the id of its check."""
    try:
        settings = manifests.settings
    except (ValidationError, LookupError):
        return {}  # `the_settings_can_be_used` says so
    with TemporaryDirectory() as folder:
        files = {}
        for setting, name in (("routes_file", "routes"), ("presets_file", "presets")):
            files[setting] = Path(folder) / f"{name}.yaml"
            files[setting].write_text(manifests.one("ConfigMap", name)["data"][f"{name}.yaml"])
        site = ManifestSite(
            settings.model_copy(update=files),
            tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            manifests=manifests,
        )
        findings = asyncio.run(examine(site, ASKED))
    wrong: dict[str, list[str]] = {}
    for finding in findings:
        enough = (Severity.OK,) if finding.check in _RECOMMENDED else (Severity.OK, Severity.INFO)
        if finding.severity not in enough:
            name = f"doctor: {_SAME.get(finding.check, finding.check)}"
            wrong.setdefault(name, []).append(
                f"{finding.subject}: {finding.found}; expected: {finding.expected}"
            )
    return wrong


@dataclass
class ManifestSite(Site):
    """A site whose peers are as the manifests describe them."""

    manifests: Manifests = field(kw_only=True)

    def __post_init__(self) -> None:
        self.pubsub = _PubSub(self.manifests)  # type: ignore[assignment]
        self.storage_api = _StorageApi(self.manifests)  # type: ignore[assignment]

    async def read_manifest(self) -> Manifest:
        """Read what the init container puts beside the weights."""
        if self.settings.model_path == "demo":
            return await super().read_manifest()
        content = self.manifests.one("ConfigMap", "models")["data"]["models.yaml"]
        return parse_manifest(content.encode(), base=self.settings.model_path)


class _PubSub:
    """Topics, subscriptions and grants of the manifests."""

    def __init__(self, manifests: Manifests) -> None:
        self._it = manifests

    async def subscription(self, name: str) -> types.Subscription:
        return self._subscription(self._find("PubSubSubscription", name))

    async def topic(self, name: str) -> types.Topic:
        self._find("PubSubTopic", name)
        return types.Topic(name=name)

    async def subscriptions_of(self, topic: str) -> list[str]:
        await self.topic(topic)
        found = map(self._subscription, self._it.all("PubSubSubscription"))
        return [subscription.name for subscription in found if subscription.topic == topic]

    async def permitted(self, resource: str, permission: str) -> bool:
        kind = "PubSubTopic" if "/topics/" in resource else "PubSubSubscription"
        return permission in _permissions(self._it, kind, resource.rpartition("/")[2])

    async def grants(self, resource: str) -> dict[str, frozenset[str]]:
        name = resource.rpartition("/")[2]
        kind = "PubSubTopic" if "/topics/" in resource else "PubSubSubscription"
        agent = "serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com"
        granted = self._it.grants("identity:pubsub.googleapis.com")
        return {role: frozenset({agent}) for of, on, role in granted if (of, on) == (kind, name)}

    async def identity(self) -> str:
        return ""

    def _find(self, kind: str, name: str) -> Document:
        for document in self._it.all(kind):
            if self._full(kind, document["metadata"]["name"]) == name:
                return document
        raise Missing(f"{name} does not exist")

    def _full(self, kind: str, name: str) -> str:
        collection = "topics" if kind == "PubSubTopic" else "subscriptions"
        return f"projects/{self._it.project}/{collection}/{name}"

    def _subscription(self, document: Document) -> types.Subscription:
        spec = document["spec"]
        described: dict[str, Any] = {
            "name": self._full("PubSubSubscription", document["metadata"]["name"]),
            "topic": self._full("PubSubTopic", spec["topicRef"]["name"]),
            # What Google takes where nothing is said.
            "ack_deadline_seconds": spec.get("ackDeadlineSeconds", 10),
            "message_retention_duration": _duration(spec.get("messageRetentionDuration", "604800s")),
            "filter": spec.get("filter", ""),
            "enable_message_ordering": spec.get("enableMessageOrdering", False),
            "enable_exactly_once_delivery": spec.get("enableExactlyOnceDelivery", False),
        }
        if "retryPolicy" in spec:
            described["retry_policy"] = types.RetryPolicy(
                minimum_backoff=_duration(spec["retryPolicy"]["minimumBackoff"]),
                maximum_backoff=_duration(spec["retryPolicy"]["maximumBackoff"]),
            )
        if "deadLetterPolicy" in spec:
            described["dead_letter_policy"] = types.DeadLetterPolicy(
                dead_letter_topic=self._full(
                    "PubSubTopic", spec["deadLetterPolicy"]["deadLetterTopicRef"]["name"]
                ),
                max_delivery_attempts=spec["deadLetterPolicy"]["maxDeliveryAttempts"],
            )
        if "expirationPolicy" in spec:
            ttl = spec["expirationPolicy"]["ttl"]
            described["expiration_policy"] = types.ExpirationPolicy(ttl=_duration(ttl)) if ttl else _NEVER
        if "pushConfig" in spec:
            described["push_config"] = types.PushConfig(push_endpoint=spec["pushConfig"]["pushEndpoint"])
        return types.Subscription(**described)


class _StorageApi:
    """Buckets and notifications of the manifests."""

    def __init__(self, manifests: Manifests) -> None:
        self._it = manifests

    async def bucket(self, name: str) -> Bucket:
        spec = self._find(name)["spec"]
        rules = [
            {"action": rule["action"], "condition": _condition(rule["condition"])}
            for rule in spec.get("lifecycleRule", ())
        ]
        return Bucket.model_validate(
            {
                "name": name,
                "lifecycle": {"rule": rules},
                "retentionPolicy": spec.get("retentionPolicy", {}),
                "defaultEventBasedHold": spec.get("defaultEventBasedHold", False),
            }
        )

    async def permitted(self, name: str, permissions: Sequence[str]) -> frozenset[str]:
        granted = _permissions(self._it, "StorageBucket", self._find(name)["metadata"]["name"])
        return frozenset(granted & set(permissions))

    async def notifications(self, name: str) -> list[Notification]:
        bucket = self._find(name)["metadata"]["name"]
        topics = f"//pubsub.googleapis.com/projects/{self._it.project}/topics"
        return [
            Notification.model_validate(
                {
                    "topic": f"{topics}/{spec['topicRef']['name']}",
                    "event_types": spec.get("eventTypes", ()),
                    "object_name_prefix": spec.get("objectNamePrefix", ""),
                }
            )
            for spec in (document["spec"] for document in self._it.all("StorageNotification"))
            if spec["bucketRef"]["name"] == bucket
        ]

    def _find(self, name: str) -> Document:
        for document in self._it.all("StorageBucket"):
            if document["spec"].get("resourceID", document["metadata"]["name"]) == name:
                return document
        raise Missing(f"there is no bucket {name!r}")


_NEVER = types.ExpirationPolicy()


def _permissions(it: Manifests, kind: str, name: str) -> set[str]:
    """What the worker's account may do to a resource."""
    [account] = it.all("IAMServiceAccount")
    granted = it.grants(f"account:{account['metadata']['name']}")
    return {
        permission
        for of, on, role in granted
        if (of, on) == (kind, name)
        for permission in ROLES.get(role, ())
    }


def _condition(condition: Document) -> Document:
    """As Google's API has it: what Config Connector calls a state is there a live object or not."""
    state = {"LIVE": True, "ARCHIVED": False}.get(condition.get("withState", "ANY"))
    return {**condition, "isLive": state}


def _duration(text: str) -> timedelta:
    return timedelta(seconds=float(text.removesuffix("s")))
