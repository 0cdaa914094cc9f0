"""The start: what is imported when, what happens at the same time, and what is left as it was."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from consumer import starting
from consumer.models import opening
from consumer.models.manifest import InvalidManifest, ModelEntry
from consumer.models.simulated_pool import ObedientRunner
from consumer.models.weight_files import CheckedFile
from consumer.ops.phases import Phases, since_exec
from consumer.settings import Settings
from tests.models.random_models import ModelFolder
from tests.peers import free_port

LIMIT = 60.0
"""Seconds that two things which happen at the same time wait for each other."""


def settings(**changes: Any) -> Settings:
    """Of a worker with peers that are not there: none of them is asked before it pulls."""
    nowhere = "127.0.0.1:1"
    return Settings(
        **{
            "google_cloud_project": "start",
            "subscription": "work",
            "results_topic": "results",
            "dead_letter_topic": "dead-letters",
            "bucket": "photos",
            "pubsub_emulator_host": nowhere,
            "storage_emulator_host": f"http://{nowhere}",
            "backend_url": f"http://{nowhere}",
            "devices": "simulated",
            "port": 0,
            **changes,
        }
    )


def started(found: Settings) -> dict[str, str]:
    """Start a worker, and return its metrics by series."""

    async def start() -> str:
        async with starting.start_worker(found, is_local=True) as running:
            return await asyncio.to_thread(_metrics, running.port)

    lines = asyncio.run(start()).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


def test_what_is_imported_before_the_models_is_little() -> None:
    code = "import sys, consumer.serve; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    late = {"torch", "torchvision", "grpc", "google", "httpx", "starlette", "uvicorn", "PIL"}
    assert late & set(done.stdout.split()) == set()


def test_a_start_tells_how_long_its_parts_took() -> None:
    found = started(settings())

    parts = ("interpreter", "manifest", "imports", "subscription", "warm_up", "total")
    assert all(float(found[f'mlworker_start_seconds{{phase="{part}"}}']) >= 0 for part in parts)
    assert float(found['mlworker_start_seconds{phase="total"}']) <= since_exec()


def test_garbage_is_collected_again_after_a_start_but_what_it_made_is_left_alone() -> None:
    started(settings())

    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_garbage_is_collected_again_after_a_start_that_failed(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest):
        started(settings(model_path=str(tmp_path)))

    assert gc.isenabled()
    gc.unfreeze()


def test_weights_are_checked_while_torch_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ModelFolder(tmp_path)
    folder.add("kinds", "classification", "small_classifier", classes=2, input_size=64)
    together = threading.Barrier(2, timeout=LIMIT)
    check, import_lean = CheckedFile.check, opening.import_lean

    def checked(model: ModelEntry, file: Path) -> CheckedFile:
        together.wait()
        return check(model, file)

    def imported(name: str) -> ModuleType:
        together.wait()
        return import_lean(name)

    monkeypatch.setattr(CheckedFile, "check", checked)
    monkeypatch.setattr(opening, "import_lean", imported)

    found = started(settings(devices="cpu", model_path=str(folder.path)))

    assert float(found['mlworker_start_seconds{phase="torch"}']) >= 0


def test_models_warm_up_while_the_rest_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=LIMIT)
    import_app, warmed = starting._import_app, []

    def warm_up(runner: ObedientRunner) -> None:
        if not warmed:
            together.wait()
        warmed.append(runner)

    def imported() -> ModuleType:
        together.wait()
        return import_app()

    monkeypatch.setattr(ObedientRunner, "warm_up", warm_up)
    monkeypatch.setattr(starting, "_import_app", imported)

    started(settings())

    assert len(warmed) == 4


def test_probes_say_no_while_models_warm_up_and_yes_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end, port = threading.Event(), free_port()
    monkeypatch.setattr(ObedientRunner, "warm_up", lambda _: may_end.wait(LIMIT))

    async def story() -> None:
        async with starting.start_worker(settings(port=port), is_local=True):
            assert await asyncio.to_thread(_status, port, "startupz") == 200
            assert await asyncio.to_thread(_status, port, "readyz") == 503  # it does not pull yet

    async def watched() -> None:
        worker = asyncio.create_task(story())
        assert await asyncio.to_thread(_first_status, port, "startupz") == 503
        assert await asyncio.to_thread(_status, port, "readyz") == 503
        may_end.set()
        await worker

    asyncio.run(watched())


def _first_status(port: int, probe: str) -> int:
    end = time.monotonic() + LIMIT
    while not (found := _status(port, probe)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _status(port: int, probe: str) -> int:
    """0 while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{probe}", timeout=10):
            return 200
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_what_is_inside_of_a_phase_can_be_left_out_of_it() -> None:
    phases = Phases()
    phases.add("inner", 5)

    with phases.time("outer", without=["inner", "other"]):
        phases.add("inner", 1)

    assert phases.seconds["inner"] == 6
    assert -1 <= phases.seconds["outer"] < -0.5
