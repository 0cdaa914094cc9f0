"""What runbooks have kubectl do: it knows the command, and what is named is among what we deploy."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.k8s.manifests import Absent, Manifests, of_overlay, selects
from tests.monitoring.test_runbooks import PAGES, typed
from tests.operations.programs import kubectl_flags

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed: it knows its own commands"
)
_KINDS = {
    "deploy": "Deployment",
    "deployment": "Deployment",
    "scaledobject": "ScaledObject",
    "globalrules": "GlobalRules",
}
"""Of what is looked at by its name."""
_HAVE_A_VALUE = {
    "-n": "--namespace",
    "-l": "--selector",
    "-o": "--output",
    "--field-selector": "--field-selector",
}
"""Flags whose value is the next word, and their long names."""


def commands() -> list[str]:
    """Each command of kubectl, without what its output goes to and without what runs in a pod."""
    lines = [line for page in PAGES for line in typed(page)]
    return sorted({re.split(r" [|&] | -- ", line)[0] for line in lines if line.startswith("kubectl ")})


@functools.cache
def _usage(*words: str) -> str:
    asked = subprocess.run(["kubectl", *words, "--help"], capture_output=True, text=True, check=False)
    return asked.stdout.partition("Usage:")[2].strip()


def wrong(command: str, deployed: Manifests) -> Iterator[str]:
    """Yield what is wrong with a command."""
    rest, given = shlex.split(command)[1:], {}
    names = []
    while rest:
        word, _, value = rest.pop(0).partition("=")
        if not word.startswith("-"):
            names.append(word)
        else:
            given[_HAVE_A_VALUE.get(word, word)] = value or (rest.pop(0) if word in _HAVE_A_VALUE else "")
    verb = names[:2] if names[0] in ("rollout", "top") else names[:1]
    if not _usage(*verb).startswith(f"kubectl {' '.join(verb)} "):
        yield f"kubectl has no {' '.join(verb)}"
    yield from (f"no flag {flag}" for flag in given.keys() - kubectl_flags(*verb))

    namespace = deployed.deployment["metadata"]["namespace"]
    if given.get("--namespace", namespace) != namespace:
        yield f"the namespace is {namespace}"
    labels = dict(re.findall(r"([^=,]+)=([^=,]+)", given.get("--selector", "")))
    if "--selector" in given and not selects(
        {"matchLabels": labels}, deployed.template["metadata"]["labels"]
    ):
        yield f"no pod has {given['--selector']}"
    yield from _absent(names[len(verb) :], deployed)
    if verb == ["logs"] and ("--selector" in given) == ("POD" in names):
        yield "the logs of one pod, whichever that is: name it, or select all"


def _absent(names: list[str], deployed: Manifests) -> Iterator[str]:
    first, *others = [part for name in names for part in name.split("/")] or [""]
    if first in _KINDS and others:
        try:
            deployed.one(_KINDS[first], others[0])
        except Absent as error:
            yield str(error)


@pytest.mark.parametrize("command", commands())
def test_kubectl_knows_the_command_and_what_it_names_is_deployed(command: str) -> None:
    assert list(wrong(command, of_overlay("autoscale-keda"))) == []


@pytest.mark.parametrize(
    "command",
    [
        "kubectl -n mlworker log POD",
        "kubectl -n mlworker rollout undone deployment mlworker",
        "kubectl -n mlworker logs POD --tails=5",
        "kubectl -n worker get pods",
        "kubectl -n mlworker logs -l app=mlworker --tail=5",
        "kubectl -n mlworker logs deploy/mlworker --tail=5",
        "kubectl -n mlworker rollout undo deployment worker",
        "kubectl get globalrules scaler -o yaml",
    ],
)
def test_a_mistake_in_a_command_is_found(command: str) -> None:
    assert len(list(wrong(command, of_overlay("autoscale-keda")))) == 1


def test_there_are_commands() -> None:
    assert len(commands()) > 20
