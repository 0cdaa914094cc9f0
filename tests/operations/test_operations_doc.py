"""docs/operations.md: all that can be checked without a cluster; `test_operations_run.py` runs the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.settings import Settings
from tests.command import ROOT
from tests.operations.dockerfile import FILE as DOCKERFILE
from tests.operations.dockerfile import stages
from tests.operations.document import (
    FILE,
    blocks,
    commands,
    documents_in,
    exported,
    loop_variables,
    prose,
    spans,
)
from tests.operations.manifest import cloud, needs_kubectl, pod_of, rendered
from tests.operations.programs import kubectl_flags, needs_gcloud, unknown_to_gcloud
from tests.test_readme import command_of

SHELL = [block for block in blocks() if block.language in ("sh", "bash", "console")]
RUN, CLUSTER = ([block for block in SHELL if block.tag == tag] for tag in ("runs", "needs-cluster"))
PLAIN = {"cat", "date", "diff", "echo", "export", "git", "grep", "sed", "sha256sum"}
"""Programs that need no checking: they are on every machine, and are used in the simplest way."""
SUBCOMMANDS = {"rollout": 2, "config": 2, "create": 3, "set": 2}
"""Commands of kubectl of two words, and `create secret generic`."""
GOOGLES = {"cnrm-system", "gmp-public"}
"""Namespaces of Config Connector, and of managed Prometheus."""


def typed(program: str) -> list[list[str]]:
    """All that is typed of a program, in blocks of every kind and in the text."""
    pieces = [block.text for block in SHELL] + [
        span for span in spans() if span.startswith(f"{program} ") and "..." not in span
    ]
    found = [words for piece in pieces for words in commands(piece)]
    inside = [words[words.index("--") + 1 :] for words in found if words[0] == "kubectl" and "--" in words]
    return [words for words in [*found, *inside] if words[0] == program]


# ---------------------------------------------------------------------------- all blocks


def test_every_block_of_shell_is_run_or_says_that_it_needs_a_cluster() -> None:
    assert RUN
    assert CLUSTER
    assert [block.line for block in SHELL if block.tag not in ("runs", "needs-cluster")] == []


@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"line {block.line}")
def test_a_block_is_shell(block: Any) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_program_is_one_that_is_checked() -> None:
    programs = {words[0] for block in SHELL for words in commands(block.text)}

    assert programs - PLAIN == {"gcloud", "kubectl", "docker", "mlworker"}


def test_every_variable_is_set_before_it_is_used() -> None:
    known, unset = {"PWD"}, []
    for block in SHELL:
        known |= exported(block.text).keys() | loop_variables(block.text)
        used = set(re.findall(r"\$\{?([A-Za-z_]+)", re.sub(r"<<'EOF'.*?^EOF", "", block.text, flags=re.S)))
        unset += [f"line {block.line}: {name}" for name in used - known]

    assert unset == []


def test_every_name_in_capitals_is_a_setting_or_one_of_the_document() -> None:
    known = {name.upper() for name in Settings.model_fields}
    known |= {name for block in SHELL for name in exported(block.text)}
    named = {span.removeprefix("$") for span in spans() if re.fullmatch(r"\$?[A-Z][A-Z_]+", span)}

    assert named - known - {"GKE_METADATA"} == set()


def test_every_file_that_is_named_exists() -> None:
    text = FILE.read_text()
    named = set(
        re.findall(r"(?<![\w./$-])((?:k8s|docs|tools|tests|requirements|contracts)/[\w./-]*\w/?)", text)
    )

    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_metric_that_is_named_is_exported() -> None:
    exported_ones = (ROOT / "docs/metrics.md").read_text()
    named = set(re.findall(r"\bmlworker_[a-z_]+", FILE.read_text()))

    assert named
    assert [name for name in named if f"`{name}`" not in exported_ones] == []


# ---------------------------------------------------------------------------- commands


@needs_gcloud
@pytest.mark.parametrize("words", typed("gcloud"), ids=lambda words: " ".join(words[1:5]))
def test_gcloud_knows_the_command_and_its_flags(words: list[str]) -> None:
    assert list(unknown_to_gcloud(words)) == []


@needs_kubectl
@pytest.mark.parametrize("words", typed("kubectl"), ids=lambda words: " ".join(words[1:5]))
def test_kubectl_knows_the_command_and_its_flags_and_the_cluster_what_is_named(words: list[str]) -> None:
    ours = words[1 : words.index("--") if "--" in words else None]
    plain = [word for word in ours if not word.startswith("-")]
    known = kubectl_flags(*plain[: SUBCOMMANDS.get(plain[0], 1)])
    deployments = [one for one in rendered("prod") if one["kind"] == "Deployment"]
    spec = deployments[0]["spec"]["template"]["spec"]
    containers = {one["name"] for one in [*spec["containers"], *spec["initContainers"]]}
    allowed = {
        "--namespace": {one["metadata"]["namespace"] for one in deployments} | GOOGLES,
        "--container": containers,
        "--kustomize": {f"k8s/overlays/{folder.name}" for folder in (ROOT / "k8s/overlays").iterdir()},
    }

    for flag, _, value in (word.partition("=") for word in ours if word.startswith("--")):
        assert flag in known
        assert value in allowed.get(flag, {value})
        if flag == "--filename":
            assert value == "-" or (ROOT / value).is_file()
    for kind, _, name in (word.partition("/") for word in plain if "/" in word):
        assert (kind, name) in {("deployment", "mlworker"), ("k8s", name)}


@pytest.mark.parametrize("words", typed("mlworker"), ids=lambda words: " ".join(words[1:4]))
def test_mlworker_has_the_command_and_its_options(words: list[str]) -> None:
    plain = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word) and not word.startswith("-")]
    command = command_of(plain)

    assert command is not None
    assert command is not command_of([])
    assert {word for word in words if word.startswith("--")} <= {
        name for option in command.params for name in option.opts
    }


@pytest.mark.parametrize("words", typed("docker"), ids=lambda words: " ".join(words[1:3]))
def test_the_builds_arguments_are_the_dockerfiles(words: list[str]) -> None:
    known = set(re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.MULTILINE))
    given = {words[i + 1].partition("=")[0] for i, word in enumerate(words) if word == "--build-arg"}

    assert words[1] in ("build", "push")
    assert given <= known


def test_the_yaml_that_is_typed_is_yaml() -> None:
    documents = [
        one for block in CLUSTER for text in documents_in(block.text) for one in yaml.safe_load_all(text)
    ]

    assert {one["kind"] for one in documents if "kind" in one} == {
        "ConfigConnector",
        "ConfigConnectorContext",
    }


# ---------------------------------------------------------------------------- by hand or by Config Connector


def by_hand(*beginning: str) -> list[list[str]]:
    """What is typed of a command of gcloud, without the command itself."""
    return [
        words[len(beginning) :] for words in typed("gcloud") if tuple(words[: len(beginning)]) == beginning
    ]


def flags(words: list[str]) -> dict[str, str]:
    return {
        name: value for name, _, value in (word.partition("=") for word in words if word.startswith("--"))
    }


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


def test_by_hand_the_lifecycle_is_that_of_config_connector() -> None:
    [typed_one] = [
        json.loads(text) for block in CLUSTER for text in documents_in(block.text) if text.startswith("{")
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


# ---------------------------------------------------------------------------- names and numbers


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables in a section."""
    section = re.split(r"^## ", prose(), flags=re.MULTILINE)
    [text] = [one for one in section if re.match(rf"\d+\. {heading}", one)]
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines]


def test_the_sites_keys_are_those_of_the_overlay() -> None:
    site = yaml.safe_load((ROOT / "k8s/overlays/prod/site.yaml").read_text())
    told = {key for row in rows("Your site")[1:] for key in re.findall(r"`([a-z-]+)`", row[0])}

    assert told == site["data"].keys()


def test_the_names_are_those_of_the_overlay() -> None:
    names = exported(SHELL[0].text)
    site = yaml.safe_load((ROOT / "k8s/overlays/prod/site.yaml").read_text())["data"]
    ours = {
        "PROJECT": "project",
        "LEDGER": "ledger-bucket",
        "PHOTOS": "photos-bucket",
        "MODELS": "models-bucket",
    }

    assert {name: names[name] for name in ours} == {name: site[key] for name, key in ours.items()}
    assert names["WORKER"].replace("$PROJECT", names["PROJECT"]) == site["worker-account"]


@needs_kubectl
def test_the_variables_are_those_of_the_pods() -> None:
    pod = pod_of(rendered("prod")).environment
    names = {name: value for block in RUN for name, value in exported(block.text).items()}

    def filled(value: str) -> str:
        return re.sub(r"\$(\w+)", lambda said: filled(names[said[1]]), value)

    ours = {name: filled(value) for name, value in names.items() if name in pod}
    assert len(ours) > 3
    assert ours == {name: pod[name] for name in ours}


@needs_kubectl
def test_the_times_of_a_drain_are_those_of_the_manifests() -> None:
    told = {row[0]: row[1:] for row in rows("Drains")}
    prod, spot = (pod_of(rendered(overlay)) for overlay in ("prod", "spot"))

    assert told["`DRAIN_MODE`"] == [f"`{pod.environment['DRAIN_MODE']}`" for pod in (prod, spot)]
    assert told["`DRAIN_TIMEOUT`"] == [pod.environment["DRAIN_TIMEOUT"] for pod in (prod, spot)]
    [grace] = [cells for name, cells in told.items() if name.startswith("`terminationGracePeriodSeconds`")]
    assert grace == [f"{pod.grace:g}" for pod in (prod, spot)]
    assert grace == [pod.environment["GRACE_PERIOD"] for pod in (prod, spot)]


@needs_kubectl
def test_what_a_pod_asks_of_its_node_is_what_the_manifests_say() -> None:
    [deployment] = [one for one in rendered("prod") if one["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    asked = spec["containers"][0]["resources"]["requests"]
    told = re.search(r"A pod asks for (\d+) cores and (\d+) GiB beside its GPU", FILE.read_text())
    [pool] = by_hand("gcloud", "container", "node-pools", "create")

    assert told
    assert (told[1], f"{told[2]}Gi") == (asked["cpu"], asked["memory"])
    assert f"type={spec['nodeSelector']['cloud.google.com/gke-accelerator']}" in flags(pool)["--accelerator"]
    assert f"count={asked['nvidia.com/gpu']}" in flags(pool)["--accelerator"]


@pytest.mark.parametrize("name", ["torch", "runtime"])
def test_the_sizes_of_layers_are_those_of_the_packages(name: str) -> None:
    [row] = [row for row in rows("Image") if f"requirements/{name}.txt" in row[1]]
    total = 0
    for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        package, version = line.split()[0].split("==")
        try:
            found = distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed here, so that its size is not known")
        if found.version != version:
            pytest.skip(f"the lock has {package} {version}, installed is {found.version}")
        total += sum(file.size or 0 for file in found.files or ())

    assert int(row[2].removesuffix(" MB")) == pytest.approx(total / 1e6, rel=0.02)


def test_the_example_of_capacity_comes_to_what_it_says() -> None:
    places = [i for i, block in enumerate(blocks()) if block.language == "python"]
    for place in places:
        block, said = blocks()[place : place + 2]
        done = subprocess.run([sys.executable, "-c", block.text], capture_output=True, text=True, check=True)

        assert (block.tag, said.language) == ("runs", "text")
        assert done.stdout == said.text


def test_the_example_of_capacity_starts_from_the_numbers_of_its_table() -> None:
    [block] = [block for block in blocks() if block.language == "python"]
    given = re.search(r"= (200_000), ([\d.]+), (\d+), ([\d.]+), ([\d.]+)$", block.text, re.MULTILINE)
    told = [row[-1].replace(" ", "") for row in rows("Capacity")[1:]]

    assert given
    assert [number.replace("_", "") for number in given.groups()] == told


def test_the_base_that_is_named_is_the_dockerfiles() -> None:
    [named] = re.findall(r"--build-arg PYTHON=([\w:.-]+)@", FILE.read_text())

    assert named == stages()["image"].base.partition("@")[0]
