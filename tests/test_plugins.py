"""A package that is installed beside the worker adds steps to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, bare_environment, mlworker
from tests.plugins import GREET, install

RUN = """
import asyncio, sys
from pathlib import Path

from pipeline_steps.loading import load_steps
from tests.end_to_end.site import open_site


async def story():
    async with open_site(Path(sys.argv[1]), load_steps()) as site:
        await site.photo()
        async with site.worker():
            for kwargs in ({"greeting": "hola"}, {"greting": "hola"}):
                site.publish(site.request({"type": "step", "name": "greet", "kwargs": kwargs}))
            await site.until_settled(2)
        print("SETTLED", *sorted(site.reasons()))
        print("RAN", *[step.name for result in await site.results() for step in result.steps])


asyncio.run(story())
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """Where a package with the step `greet` is installed."""
    return str(install(tmp_path / "site-packages", GREET))


def greet(**kwargs: str) -> bytes:
    return json.dumps({"steps": [{"type": "step", "name": "greet", "kwargs": kwargs}]}).encode()


def test_its_steps_are_in_the_catalogue(plugin: str) -> None:
    everything = mlworker("steps", PYTHONPATH=plugin)
    one = mlworker("steps", "greet", "--json", PYTHONPATH=plugin)

    assert "\ngreet " in everything.stdout
    assert "Greet the picture, and find nothing on it." in everything.stdout
    [step] = json.loads(one.stdout)
    assert (step["inputs"], step["outputs"]) == ({"Image": True}, ["Detections"])
    assert [(one["name"], one["default"]) for one in step["params"]] == [("greeting", "hello")]


def test_its_steps_are_known_where_a_pipeline_is_checked(plugin: str) -> None:
    right = mlworker("validate", "-", stdin=greet(greeting="hola"), PYTHONPATH=plugin)
    wrong = mlworker("validate", "-", stdin=greet(greting="hola"), PYTHONPATH=plugin)
    without = mlworker("validate", "-", stdin=greet())

    assert (right.returncode, right.stdout) == (0, "valid: a pipeline definition\n")
    assert wrong.returncode == 2
    assert wrong.stderr == "steps.0.kwargs.greting: unknown key; did you mean 'greeting'?\n"
    assert without.returncode == 2
    assert without.stderr.startswith("steps.0.name: no step is named 'greet'")


def test_its_steps_run_in_a_worker(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "site")],
        capture_output=True,
        text=True,
        env=bare_environment(PYTHONPATH=f"{plugin}:{ROOT}"),
        cwd=ROOT,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "SETTLED given_up succeeded" in done.stdout
    assert "RAN greet" in done.stdout


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("this is no python", "SyntaxError: "),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (GREET.replace('"greet"', '"count"'), "InvalidStep: two steps are named 'count'"),
        (
            GREET.replace("image: Image,", "image: str,"),
            "InvalidStep: step 'greet': argument 'image' is a str",
        ),
    ],
)
@pytest.mark.parametrize("command", ["steps", "validate -"])
def test_one_that_cannot_be_loaded_is_named_with_the_reason(
    tmp_path: Path, source: str, reason: str, command: str
) -> None:
    done = mlworker(*command.split(), stdin=greet(), PYTHONPATH=str(install(tmp_path / "broken", source)))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "plug-in 'nursery' of nursery-steps 1.2 cannot be loaded: importing nursery_steps.steps failed with "
    )
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_does_not_start_without_a_plugin_that_is_installed(tmp_path: Path) -> None:
    environment = {
        "GOOGLE_CLOUD_PROJECT": "nursery", "SUBSCRIPTION": "work", "RESULTS_TOPIC": "results",
        "DEAD_LETTER_TOPIC": "dead-letters", "BUCKET": "photos", "BACKEND_URL": "https://backend.example",
        "PUBSUB_EMULATOR_HOST": "127.0.0.1:1", "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1",
    }  # fmt: skip
    done = mlworker(
        "run", PYTHONPATH=str(install(tmp_path / "broken", "import no_such_package")), **environment
    )

    assert done.returncode == 2
    assert "plug-in 'nursery' of nursery-steps 1.2 cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr
