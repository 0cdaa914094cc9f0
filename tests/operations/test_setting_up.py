"""docs/operations.md: what is set up fits together, and nothing is used before it is there."""

from __future__ import annotations

import re

from tests.command import ROOT
from tests.k8s.manifests import Manifests
from tests.k8s.schemas import every_document_fits_its_schema
from tests.operations.document import (
    FILE,
    KEDA,
    by_hand,
    commands,
    exported,
    filled,
    flags,
    manifests,
    shell,
    typed,
)
from tests.operations.manifest import needs_kubectl, rendered


def test_the_manifests_that_are_typed_fit_their_schemas() -> None:
    documents = manifests()

    assert [one["kind"] for one in documents] == ["ConfigConnector", "ConfigConnectorContext", "Pod"]
    assert list(every_document_fits_its_schema(Manifests(documents))) == []


def test_config_connector_is_let_in_where_the_manifests_are() -> None:
    [context] = [one for one in manifests() if one["kind"] == "ConfigConnectorContext"]
    account = context["spec"]["googleServiceAccount"].partition("@")[0]
    namespace = context["metadata"]["namespace"]
    bound = [words for words in typed("gcloud") if "roles/iam.workloadIdentityUser" in " ".join(words)]

    assert namespace == "mlworker"
    assert any(f"cnrm-controller-manager-{namespace}]" in words for words in map(" ".join, bound))
    assert [account] in by_hand("gcloud", "iam", "service-accounts", "create")


@needs_kubectl
def test_the_pod_that_asks_for_the_driver_runs_where_the_workers_will() -> None:
    [asking] = [one["spec"] for one in manifests() if one["kind"] == "Pod"]
    [deployment] = [one for one in rendered("prod") if one["kind"] == "Deployment"]
    worker = deployment["spec"]["template"]["spec"]

    assert asking["nodeSelector"] == worker["nodeSelector"]
    asked, limits = (spec["containers"][0]["resources"]["limits"] for spec in (asking, worker))
    assert asked.items() <= limits.items()


def test_every_account_that_is_named_is_made_before_anything_is_granted_to_it() -> None:
    made: set[str] = set()
    for words in (words for block in shell() for words in commands(block.text)):
        if words[:4] == ["gcloud", "iam", "service-accounts", "create"]:
            made.add(words[4])
        elif "add-iam-policy-binding" in words:
            said = filled(" ".join(words))
            assert set(re.findall(r"([a-z-]+)@", said)) <= made, said

    assert {"backend", "config-connector", "gke-nodes", "mlworker"} == made


def test_keda_comes_before_what_needs_it_and_is_new_enough() -> None:
    places = {one.text: one.line for one in shell()}
    [installed] = [line for text, line in places.items() if KEDA in text]
    [version] = [exported(text)["KEDA"] for text in places if KEDA in text]
    wanted = {
        re.search(r"(\d+)\.(\d+) or newer, (?:installed )?in the namespace `keda`", text)
        for text in (FILE.read_text(), (ROOT / "k8s/components/keda/kustomization.yaml").read_text())
    }

    assert installed < min(line for text, line in places.items() if "--kustomize" in text)
    for found in wanted:
        assert found
        assert [int(number) for number in found.groups()] <= [int(number) for number in version.split(".")]


def test_pools_are_made_where_their_gpu_is_to_be_had() -> None:
    [pool] = by_hand("gcloud", "container", "node-pools", "create")
    listed = [flags(words)["--filter"] for words in by_hand("gcloud", "compute", "accelerator-types", "list")]
    kinds = re.findall(r"--accelerator=type=([a-z0-9-]+)", FILE.read_text())

    assert flags(pool)["--node-locations"] == "$ZONES"
    assert len(kinds) == 2
    assert listed == [f"name={kind} AND zone~$REGION" for kind in kinds]
