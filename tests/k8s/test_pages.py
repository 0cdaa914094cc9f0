"""What pages have people type suits what the manifests make: the cluster's parts, and its pods' rights."""

from __future__ import annotations

import re

from tests.command import ROOT
from tests.k8s.manifests import of_overlay

OPERATIONS = ROOT / "docs" / "operations.md"


def test_the_cluster_that_is_made_has_what_the_manifests_need() -> None:
    """`--addons` switches everything off that it does not name, also what is there by default."""
    text = OPERATIONS.read_text().replace("\\\n", "")
    [addons] = re.findall(r"--addons=([\w,]+)", text)
    [services] = re.findall(r"^gcloud services enable (.*)$", text, re.MULTILINE)
    everything = of_overlay("everything")

    assert everything.all("ScaledObject"), "KEDA scales by HorizontalPodAutoscalers"
    assert {"HorizontalPodAutoscaling", "ConfigConnector"} <= set(addons.split(","))
    wanted = {
        # Of Config Connector's kinds: pubsub.cnrm.cloud.google.com is made with pubsub.googleapis.com.
        document["apiVersion"].partition(".cnrm.")[0].replace("resourcemanager", "cloudresourcemanager")
        for document in everything.documents
        if ".cnrm.cloud.google.com" in document["apiVersion"]
    }
    if "--enable-image-streaming" in text:
        wanted.add("containerfilesystem")
    assert {f"{name}.googleapis.com" for name in wanted} - set(services.split()) == set()


def test_what_is_run_in_a_pod_is_within_the_rights_of_its_account() -> None:
    """The workers' account may not read dead letters: whoever looks at them does that as himself."""
    pages = [OPERATIONS, *sorted((ROOT / "docs" / "runbooks").glob("*.md"))]
    asked = {
        (page.name, command)
        for page in pages
        for command in re.findall(r"kubectl [^`\n]*exec [^`\n]* -- mlworker ([a-z-]+)", page.read_text())
    }

    assert {command for _, command in asked} == {"doctor"}, sorted(asked)
