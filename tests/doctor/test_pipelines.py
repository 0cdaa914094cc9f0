"""Presets, routes and models: the files an operator writes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.doctor.findings import Severity
from tests.doctor.sites import BUCKET, REQUESTS, RESULTS, Good, said, worst
from tests.doctor.storage_server import Storage

pytestmark = pytest.mark.anyio

COUNT = {"steps": [{"type": "step", "name": "detection"}, {"type": "step", "name": "count"}]}
SLOW = {"steps": [{"type": "step", "name": "detection", "timeout_s": 700, "retries": 2}]}
UNKNOWN_MODEL = {"steps": [{"type": "step", "name": "detection", "kwargs": {"model": "orchids"}}]}


def route(**changes: Any) -> dict[str, Any]:
    return {"bucket": BUCKET, "prefix": "{tenant_id}/originals/", "pipeline": COUNT, **changes}


def routes(good: Good, *entries: Mapping[str, Any]) -> dict[str, Path]:
    file = good.folder / "routes.yaml"
    file.write_text(yaml.safe_dump({"routes": [dict(entry) for entry in entries]}))
    return {"routes_file": file}


def presets(good: Good, **pipelines: Any) -> dict[str, Path]:
    file = good.folder / "presets.yaml"
    file.write_text(yaml.safe_dump({"pipelines": pipelines}))
    return {"presets_file": file}


def models(good: Good, weights: bytes = b"weights", **changes: Any) -> Path:
    folder = good.folder / "models"
    folder.mkdir(exist_ok=True)
    (folder / "plants.safetensors").write_bytes(weights)
    entry = {
        "name": "plants",
        "kind": "detection",
        "architecture": "fcos_small",
        "weights": "plants.safetensors",
        "sha256": hashlib.sha256(b"weights").hexdigest(),
        "version": "1",
        "classes": ["plant"],
        "input_size": 640,
        **changes,
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    return folder


# ---------------------------------------------------------------------------- silence


@pytest.mark.parametrize(
    "check",
    [
        "steps.plugins",
        "presets.file",
        "presets.pipelines",
        "routes.file",
        "routes.pipelines",
        "routes.access",
        "routes.callback",
        "models.manifest",
        "models.weights",
    ],
)
async def test_of_good_files_nothing_is_said(good: Good, check: str) -> None:
    files = {
        **routes(good, route(callback="https://a.example/x")),
        **presets(good, COUNT=["detection", "count"]),
    }

    assert worst(await good.ask(check, callback_allowed_hosts=("a.example",), **files)) is Severity.OK


async def test_without_routes_there_is_nothing_to_say_of_them(good: Good) -> None:
    assert worst(await good.ask("routes.file")) is Severity.OK
    for check in ("routes.pipelines", "routes.access", "routes.callback", "routes.notifications"):
        assert await good.ask(check) == []


# ---------------------------------------------------------------------------- presets


async def test_presets_that_cannot_be_read_are_found_and_the_rest_is_skipped(good: Good) -> None:
    file = {"presets_file": good.folder / "nowhere.yaml"}

    assert worst(await good.ask("presets.file", **file)) is Severity.ERROR
    [finding] = await good.ask("presets.pipelines", **file)
    assert finding.found == "see presets.file"


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        (["detection", "bake"], "steps.1.name: no step is named 'bake'"),
        (SLOW["steps"], "700 s, tried 3 times, is longer than the whole pipeline may take (1800 s)"),
        (UNKNOWN_MODEL["steps"], "orchids"),
    ],
)
async def test_a_preset_that_cannot_run_here_is_found(good: Good, pipeline: Any, words: str) -> None:
    findings = await good.ask("presets.pipelines", **presets(good, WRONG=pipeline, RIGHT=["detection"]))

    assert {(f.subject, f.severity) for f in findings} == {
        ("preset WRONG", Severity.ERROR),
        ("preset RIGHT", Severity.OK),
    }
    assert words in said(findings)


async def test_packaged_presets_that_lack_their_models_are_only_mentioned(good: Good) -> None:
    findings = await good.ask("presets.pipelines", model_path=str(models(good, name="orchids")))

    assert worst(findings) is Severity.INFO


# ---------------------------------------------------------------------------- routes


async def test_routes_that_cannot_be_read_are_found_and_the_rest_is_skipped(good: Good) -> None:
    file = routes(good, route(prefix="originals/"))

    findings = await good.ask("routes.file", **file)

    assert worst(findings) is Severity.ERROR
    assert "routes.0.prefix: must contain {tenant_id} once" in said(findings)
    for check in ("routes.pipelines", "routes.access", "routes.callback", "routes.notifications"):
        assert [f.found for f in await good.ask(check, **file)] == ["see routes.file"]


async def test_a_route_whose_pipeline_cannot_run_here_is_found(good: Good) -> None:
    findings = await good.ask("routes.pipelines", **routes(good, route(), route(pipeline=SLOW)))

    assert {f.subject: f.severity for f in findings} == {"routes.0": Severity.OK, "routes.1": Severity.ERROR}
    assert worst(
        await good.ask("routes.pipelines", pipeline_timeout=2100.0, **routes(good, route(pipeline=SLOW)))
    ) is (Severity.OK)


async def test_a_route_whose_photos_may_not_be_read_is_found(good: Good) -> None:
    file = routes(
        good,
        route(bucket="other"),
        route(prefix="incoming/{tenant_id}/"),
        route(prefix="{tenant_id}/processed/"),
    )

    findings = await good.ask("routes.access", **file)

    assert [finding.severity for finding in findings] == [Severity.ERROR, Severity.ERROR, Severity.WARNING]
    assert "ALLOWED_BUCKETS" in findings[0].found
    assert "IMAGE_PREFIXES" in findings[1].found
    assert "nothing in it starts work" in findings[2].found
    assert worst(
        await good.ask("routes.access", allowed_buckets=("other",), **routes(good, route(bucket="other")))
    ) is (Severity.OK)


async def test_a_route_that_calls_back_who_may_not_be_called_is_found(good: Good) -> None:
    file = routes(
        good, route(callback="https://stranger.example/x"), route(callback=True), route(callback=False)
    )

    findings = await good.ask("routes.callback", **file)

    assert {f.subject: f.severity for f in findings} == {
        "routes.0": Severity.ERROR,
        "routes.1": Severity.WARNING,
    }
    assert "CALLBACK_ALLOWED_HOSTS" in said(findings)


async def test_a_bucket_that_announces_nothing_is_found(good: Good, storage: Storage) -> None:
    file = routes(good, route(), route(bucket="silent"))
    ours = f"//pubsub.googleapis.com/{REQUESTS}"
    storage.notifications = {
        BUCKET: [{"topic": ours, "event_types": ["OBJECT_DELETE"]}, {"topic": ours}],
        "silent": [
            {"topic": ours, "event_types": ["OBJECT_DELETE"]},
            {"topic": f"//pubsub.googleapis.com/{RESULTS}", "event_types": ["OBJECT_FINALIZE"]},
        ],
    }

    found = {finding.subject: finding for finding in await good.ask("routes.notifications", **file)}

    assert found[f"gs://{BUCKET}"].severity is Severity.OK
    assert found["gs://silent"].severity is Severity.ERROR
    assert found["gs://silent"].fix == (
        f"gcloud storage buckets notifications create gs://silent --topic={REQUESTS} "
        "--event-types=OBJECT_FINALIZE"
    )


@pytest.mark.parametrize(
    ("prefix", "announced", "severity"),
    [
        ("{tenant_id}/originals/", "acme/", Severity.WARNING),
        ("incoming/{tenant_id}/", "incoming/acme/", Severity.WARNING),
        ("incoming/{tenant_id}/", "elsewhere/", Severity.WARNING),
        ("incoming/{tenant_id}/", "incoming/", Severity.OK),
        ("incoming/{tenant_id}/", "in", Severity.OK),
    ],
)
async def test_a_bucket_that_announces_only_a_part_is_found(
    good: Good, storage: Storage, prefix: str, announced: str, severity: Severity
) -> None:
    topic = f"//pubsub.googleapis.com/{REQUESTS}"
    storage.notifications[BUCKET] = [{"topic": topic, "object_name_prefix": announced}]

    findings = await good.ask("routes.notifications", **routes(good, route(prefix=prefix)))

    assert worst(findings) is severity
    assert severity is Severity.OK or f"announces only {announced}…" in said(findings)


async def test_an_emulator_that_knows_no_notifications_is_no_error(good: Good, storage: Storage) -> None:
    assert worst(await good.ask("routes.notifications", **routes(good, route()))) is Severity.SKIPPED


# ---------------------------------------------------------------------------- models


async def test_a_manifest_that_cannot_be_used_is_found_problem_by_problem(good: Good) -> None:
    folder = models(good, kind="detektion", version=1)

    findings = await good.ask("models.manifest", model_path=str(folder))

    assert len(findings) == 2
    assert worst(findings) is Severity.ERROR
    assert "did you mean 'detection'?" in said(findings)
    assert (await good.ask("models.weights", model_path=str(folder)))[0].found == "see models.manifest"
    # Pipelines are looked at all the same, as far as they can be without models.
    assert "if there are models for it" in said(
        await good.ask("presets.pipelines", model_path=str(folder), **presets(good, COUNT=["detection"]))
    )


@pytest.mark.parametrize(("sha256", "weights"), [("0" * 64, b"weights"), (None, b"tampered with")])
async def test_weights_that_are_not_what_the_manifest_says_are_found(
    good: Good, sha256: str | None, weights: bytes
) -> None:
    changes = {"sha256": sha256} if sha256 else {}
    [finding] = await good.ask("models.weights", model_path=str(models(good, weights, **changes)))

    assert finding.severity is Severity.ERROR
    assert f"has sha256 {hashlib.sha256(weights).hexdigest()}" in finding.found


async def test_weights_that_are_missing_are_found(good: Good) -> None:
    folder = models(good)
    (folder / "plants.safetensors").unlink()

    [finding] = await good.ask("models.weights", model_path=str(folder))

    assert finding.severity is Severity.ERROR
    assert "No such file" in finding.found


async def test_models_in_a_bucket_are_looked_at_there(good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models(good)
    for file in folder.iterdir():
        await good.store.write("models", f"v1/{file.name}", file.read_bytes())
    remote = {"model_path": "gs://models/v1"}

    assert worst(await good.ask("models.manifest", **remote)) is Severity.OK
    assert worst(await good.ask("models.weights", **remote)) is Severity.OK
    assert worst(await good.ask("models.manifest", online=False, **remote)) is Severity.SKIPPED
    await good.store.write("models", "v1/plants.safetensors", b"others")
    assert worst(await good.ask("models.weights", **remote)) is Severity.ERROR
    monkeypatch.setattr("consumer.doctor.models.MOST_DOWNLOADED", 5)
    assert worst(await good.ask("models.weights", **remote)) is Severity.INFO
    await good.store.delete("models", "v1/plants.safetensors")
    assert worst(await good.ask("models.weights", **remote)) is Severity.ERROR
    assert worst(await good.ask("models.manifest", model_path="gs://models/v2")) is Severity.ERROR


async def test_simulated_devices_need_no_weights(good: Good) -> None:
    assert worst(await good.ask("models.weights", devices=("simulated",))) is Severity.SKIPPED


@pytest.mark.parametrize(
    ("devices", "severity", "words"),
    [
        ((), Severity.INFO, "2 GPUs here"),
        (("cpu",), Severity.OK, "cpu"),
        (("cuda:0", "cuda:1"), Severity.OK, "cuda:0, cuda:1"),
        (("cuda:2",), Severity.WARNING, "cuda:2: not on this machine (2 GPUs here)"),
        (("gpu0",), Severity.ERROR, "gpu0: no such device"),
        (("cuda:0", "cuda:0"), Severity.ERROR, "named twice"),
        (("simulated:fixed=0.1",), Severity.OK, "simulated"),
    ],
)
async def test_devices(good: Good, devices: tuple[str, ...], severity: Severity, words: str) -> None:
    folder = good.folder / "dev"
    folder.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (folder / name).touch()

    findings = await good.ask("models.devices", devices=devices, device_folder=folder)

    assert worst(findings) is severity
    assert words in said(findings)


async def test_a_plug_in_that_does_not_load_is_found(good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from pipeline_steps import loading

    broken = EntryPoint("broken", "no_such_module.steps", "mlworker.steps")
    monkeypatch.setattr(loading, "entry_points", lambda **_: [broken])

    findings = await good.ask("steps.plugins")

    assert worst(findings) is Severity.ERROR
    assert "broken" in said(findings)
    assert (await good.ask("routes.pipelines", **routes(good, route())))[0].found == "see steps.plugins"
