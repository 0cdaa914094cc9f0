"""docs/operations.md: all that can be checked without a cluster; `test_operations_run.py` runs the rest."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest
import yaml

from consumer.settings import Settings
from tests.command import ROOT
from tests.operations.dockerfile import FILE as DOCKERFILE
from tests.operations.dockerfile import stages
from tests.operations.document import (
    FILE,
    KEDA,
    blocks,
    by_hand,
    commands,
    exported,
    filled,
    flags,
    loop_variables,
    prose,
    shell,
    spans,
    typed,
)
from tests.operations.manifest import needs_kubectl, pod_of, rendered
from tests.operations.programs import kubectl_flags, needs_gcloud, unknown_to_gcloud
from tests.test_readme import command_of

SHELL = shell()
RUN, CLUSTER = ([block for block in SHELL if block.tag == tag] for tag in ("runs", "needs-cluster"))
PLAIN = {"cat", "date", "diff", "echo", "export", "git", "grep", "sed", "sha256sum", "sleep"}
"""Programs that need no checking: they are on every machine, and are used in the simplest way."""
SUBCOMMANDS = {"rollout": 2, "config": 2, "create": 3, "set": 2}
"""Commands of kubectl of two words, and `create secret generic`."""
OTHERS = {"cnrm-system", "default", "gmp-public", "keda"}
"""Namespaces of Config Connector, of anybody, of managed Prometheus and of KEDA."""


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

    assert programs - PLAIN == {"gcloud", "kubectl", "docker", "mlworker", "python"}


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
        "--namespace": {one["metadata"]["namespace"] for one in deployments} | OTHERS,
        "--container": containers,
        "--kustomize": {f"k8s/overlays/{folder.name}" for folder in (ROOT / "k8s/overlays").iterdir()},
    }

    for flag, _, value in (word.partition("=") for word in ours if word.startswith("--")):
        assert flag in known
        assert value in allowed.get(flag, {value})
        if flag == "--filename":
            assert value in ("-", KEDA) or (ROOT / value).is_file()
    for kind, _, name in (word.partition("/") for word in plain if "/" in word):
        assert (kind, name) in {("deployment", "mlworker"), ("deployment", "keda-operator"), ("k8s", name)}


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
    # The locks are of wheels for amd64, and so are GKE's nodes with GPUs.
    assert words[1] == "push" or flags(words)["--platform"] == "linux/amd64"


@pytest.mark.parametrize("words", typed("python"), ids=lambda words: " ".join(words[1:3]))
def test_the_module_of_python_is_there(words: list[str]) -> None:
    assert words[1] == "-m"
    assert importlib.util.find_spec(words[2])


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
    assert site["worker-account"] == filled("$WORKER")
    assert site["backend-member"] == filled("serviceAccount:$BACKEND")


@needs_kubectl
def test_the_variables_are_those_of_the_pods() -> None:
    pod = pod_of(rendered("prod")).environment
    names = {name: value for block in RUN for name, value in exported(block.text).items()}
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
