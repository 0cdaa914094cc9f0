"""docs/operations.md: what is made by hand is what Config Connector makes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from tests.command import ROOT
from tests.operations.document import by_hand, documents_in, flags, shell, typed
from tests.operations.manifest import cloud, needs_kubectl


def test_by_hand_the_topics_are_those_of_config_connector() -> None:
    [topics] = by_hand("gcloud", "pubsub", "topics", "create")

    assert sorted(topics) == sorted(one["metadata"]["name"] for one in cloud("PubSubTopic"))


def test_by_hand_the_subscriptions_are_those_of_config_connector() -> None:
    def seconds(said: str) -> str:
        return f"{int(said[:-1]) * 86400}s" if said.endswith("d") else said

    typed_ones = {words[0]: flags(words) for words in by_hand("gcloud", "pubsub", "subscriptions", "create")}
    made = {}
    for one in cloud("PubSubSubscription"):
        spec = one["spec"]
        made[one["metadata"]["name"]] = {
            "--topic": spec["topicRef"]["name"],
            "--ack-deadline": str(spec["ackDeadlineSeconds"]),
            "--message-retention-duration": spec["messageRetentionDuration"],
            "--expiration-period": spec["expirationPolicy"]["ttl"] or "never",
        }
        if "retryPolicy" in spec:
            made[one["metadata"]["name"]] |= {
                "--min-retry-delay": spec["retryPolicy"]["minimumBackoff"],
                "--max-retry-delay": spec["retryPolicy"]["maximumBackoff"],
            }
        if "deadLetterPolicy" in spec:
            made[one["metadata"]["name"]] |= {
                "--dead-letter-topic": spec["deadLetterPolicy"]["deadLetterTopicRef"]["name"],
                "--max-delivery-attempts": str(spec["deadLetterPolicy"]["maxDeliveryAttempts"]),
            }

    assert {
        name: {flag: seconds(value) if "duration" in flag else value for flag, value in said.items()}
        for name, said in typed_ones.items()
    } == made


def test_by_hand_the_grants_are_those_of_config_connector() -> None:
    kinds = {"topics": "PubSubTopic", "subscriptions": "PubSubSubscription", "buckets": "StorageBucket"}
    names = {"gs://$LEDGER": "ledger", "gs://$PHOTOS": "photos", "gs://$MODELS": "models"}
    typed_ones = Counter(
        (kinds[words[2]], names.get(words[4], words[4]), flags(words)["--role"])
        for words in typed("gcloud")
        if words[3:4] == ["add-iam-policy-binding"] and words[2] in kinds
    )
    made = Counter(
        (one["spec"]["resourceRef"]["kind"], one["spec"]["resourceRef"]["name"], one["spec"]["role"])
        for one in cloud("IAMPolicyMember")
        if one["spec"]["resourceRef"]["kind"] in kinds.values()
    )

    assert typed_ones == made


def test_by_hand_the_buckets_are_those_of_config_connector() -> None:
    [words] = by_hand("gcloud", "storage", "buckets", "create")
    said = flags(words)
    versioned = {
        words[0]
        for words in by_hand("gcloud", "storage", "buckets", "update")
        if flags(words).keys() == {"--versioning"}
    }

    for bucket in cloud("StorageBucket"):
        spec = bucket["spec"]
        assert spec["uniformBucketLevelAccess"] == ("--uniform-bucket-level-access" in said)
        assert (spec["publicAccessPrevention"] == "enforced") == ("--public-access-prevention" in said)
        days = spec["softDeletePolicy"]["retentionDurationSeconds"] / 86_400
        assert said["--soft-delete-duration"] == f"{days:g}d"
        versions = spec.get("versioning", {}).get("enabled", False)
        assert versions == (f"gs://${bucket['metadata']['name'].upper()}" in versioned)


def test_by_hand_the_lifecycle_is_that_of_config_connector() -> None:
    [typed_one] = [
        json.loads(text) for block in shell() for text in documents_in(block.text) if '"rule"' in text
    ]
    [ledger] = [one for one in cloud("StorageBucket") if one["metadata"]["name"] == "ledger"]
    made = [
        {"action": {"type": rule["action"]["type"]}, "condition": rule["condition"]}
        for rule in ledger["spec"]["lifecycleRule"]
    ]

    assert typed_one["rule"] == made


@needs_kubectl
def test_without_config_connector_the_overlay_can_still_be_rendered(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    file = tmp_path / "k8s/overlays/prod/kustomization.yaml"
    file.write_text(re.sub(r"^\s*- \.\./\.\./cloud\n", "", file.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["kubectl", "kustomize", file.parent], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "kind: Deployment" in done.stdout
    assert "kind: PubSubTopic" not in done.stdout
