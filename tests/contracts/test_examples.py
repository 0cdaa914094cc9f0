"""The messages that users really send, read as they are.

`examples/` holds them unchanged. Everything in there is understood; only one pipeline, whose steps were never
written, is refused.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from consumer.broker import Delivery
from consumer.decode import Decoder
from consumer.jobs import Job
from consumer.pipeline.definition import read_definition
from consumer.pipeline.nodes import Pipeline
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.presets import Presets, load_presets, parse_presets
from consumer.routes import Routes
from contracts.callback import ResultsCallback, SessionStatus
from pipeline_steps.loading import load_steps
from pipeline_steps.models import ModelKind, ModelSpec

EXAMPLES = Path(__file__).parent / "examples"
SESSION = UUID("550e8400-e29b-41d4-a716-446655440000")
IMAGE = UUID("660e8400-e29b-41d4-a716-446655440001")


def model(name: str, kind: ModelKind, *classes: str) -> ModelSpec:
    return ModelSpec(name, kind, "1", "ab" * 32, classes, threshold=0.5, input_size=640)


MODELS = {
    spec.name: spec
    for spec in (
        model("plants", ModelKind.DETECTION, "plant"),
        model("containers", ModelKind.DETECTION, "segmento", "cajon", "claro-cajon"),
        model("sam", ModelKind.SAM),
        model("species", ModelKind.CLASSIFICATION, "ficus", "aloe"),
    )
}
"""What the packaged manifest offers."""


def example(name: str) -> Any:
    return json.loads((EXAMPLES / f"{name}.json").read_text())


def decoded(message: Any, presets: Presets | None = None) -> Job:
    delivery = Delivery("ack", "1", orjson.dumps(message), {}, datetime(2025, 4, 1, tzinfo=UTC), None)
    job = Decoder(presets or load_presets(), Routes(), 10_000_000).decode(delivery)
    assert isinstance(job, Job)
    return job


def parsed(job: Job) -> Pipeline:
    """Parse against our own steps, as the worker does before any download."""
    return parse(job.definition, load_steps(plugins=False), settings=job.settings, models=MODELS)


def names(pipeline: Pipeline) -> list[str]:
    return [call.step.name for call in pipeline.calls()]


def test_every_example_has_a_test_here() -> None:
    source = Path(__file__).read_text()

    assert [file.stem for file in EXAMPLES.glob("*.json") if f'"{file.stem}"' not in source] == []


def test_the_backends_callback_body_is_ours() -> None:
    body = example("be_callback_results_full")

    read = ResultsCallback.model_validate(body)

    assert json.loads(read.model_dump_json(by_alias=True)) == body


def test_the_backends_answer_is_understood() -> None:
    answer = SessionStatus.model_validate(example("be_session_status"))

    assert (answer.status, answer.processed_images, answer.total_images) == ("PROCESSING", 1, 3)


def test_the_backends_present_message_runs_a_preset() -> None:
    job = decoded(example("be_task_request_default"))

    assert (job.ids.tenant_id, job.ids.session_id, job.ids.image_id) == ("default", SESSION, IMAGE)
    assert job.source.bucket == "stockcontrol-images"
    assert job.source.name == f"cultivadores/sessions/{SESSION}/images/{IMAGE}.jpg"
    assert (job.pipeline_name, job.callback_url, job.warnings) == ("DETECTION", None, ())
    assert "detection" in names(parsed(job))


def test_the_older_queues_message_runs_and_says_what_it_did_not_read() -> None:
    job = decoded(example("mlw_req_simulate_cloud_task")["body"])

    assert job.pipeline_name == "DETECTION"
    assert job.warnings == ("species_config: unknown key, not read",)
    assert "detection" in names(parsed(job))


def test_the_documented_request_runs_but_for_the_step_that_is_the_workers_own_job() -> None:
    job = decoded(example("mlw_req_claude_md_fixed"))

    pipeline = parsed(job)

    assert names(pipeline) == [
        "upload_image",
        "segmentation",
        "segment_filter",
        "sahi_detection",
        "detection",
        "aggregate_detections",
        "size_calculator",
        "visualize_detections",
        "upload_image",
    ]
    assert len(pipeline.warnings) == 1
    assert pipeline.warnings[0].startswith("steps.7: send_results_backend is ignored: delivery is")


def test_kwargs_of_one_step_are_not_those_of_the_next() -> None:
    calls = list(parsed(decoded(example("mlw_req_claude_md_fixed"))).calls())

    uploads = [call.params.model_dump() for call in calls if call.step.name == "upload_image"]
    detectors = {
        call.step.name: call.params.model_dump()
        for call in calls
        if call.step.name in ("sahi_detection", "detection")
    }

    assert [(one["source"], one["dest_prefix"]) for one in uploads] == [
        ("original", "originals"),
        ("processed", "processed"),
    ]
    assert [tuple(one["thumbnail_sizes"]) for one in uploads] == [(256, 512, 1024), (256, 512)]
    assert detectors["sahi_detection"]["segment_type"] == "segmento"
    assert detectors["detection"]["segment_type"] == "cajon"


def test_settings_reach_the_steps_that_declare_them() -> None:
    calls = {
        call.step.name: call.params.model_dump()
        for call in parsed(decoded(example("mlw_req_claude_md_fixed"))).calls()
    }

    assert calls["segment_filter"]["segment_filter_type"] == "largest_by_class"
    assert tuple(calls["segment_filter"]["segment_filter_classes"]) == ("segmento", "cajon")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        (
            "mlw_pipeline_agro_full_dsl",
            (
                "segmentation segment_filter sahi_detection detection aggregate_detections "
                "size_calculator species_distributor"
            ),
        ),
        ("mlw_pipeline_schema_docstring", "segmentation detection aggregate_detections"),
        (
            "mlw_pipeline_test_complex",
            "segmentation segment_filter sahi_detection detection aggregate_detections size_calculator",
        ),
    ],
)
def test_a_documented_pipeline_parses(name: str, steps: str) -> None:
    definition, problems = read_definition(example(name))

    assert problems == []
    assert definition is not None
    pipeline = parse(definition, load_steps(plugins=False), models=MODELS)
    assert names(pipeline) == steps.split()
    assert pipeline.warnings == ()


def test_a_tenants_documented_configuration_parses() -> None:
    config = example("mlw_tenant_config_readme")

    definition, problems = read_definition(config["pipeline_definition"])

    assert problems == []
    assert definition is not None
    pipeline = parse(definition, load_steps(plugins=False), settings=config["settings"])
    assert pipeline.warnings == ()
    species = next(call for call in pipeline.calls() if call.step.name == "species_distributor")
    assert tuple(species.params.model_dump()["species"]) == ("species_a", "species_b")


@pytest.mark.parametrize("industry", ["agro", "vending"])
def test_the_older_workers_named_pipelines_are_presets(industry: str) -> None:
    file = example({"agro": "mlw_named_pipelines_agro", "vending": "mlw_named_pipelines_vending"}[industry])
    presets = parse_presets(file, industry)

    for name in file["pipelines"]:
        job = decoded({**example("be_task_request_default"), "pipeline": name}, presets)
        ran = names(parsed(job))

        assert ran == [{"estimation": "count"}.get(step, step) for step in file["pipelines"][name]]


def packaged(name: str) -> list[str]:
    return names(parsed(decoded({**example("be_task_request_default"), "pipeline": name})))


def test_every_named_pipeline_that_was_ever_sent_is_packaged() -> None:
    sent = {
        name
        for industry in ("mlw_named_pipelines_agro", "mlw_named_pipelines_vending")
        for name in example(industry)["pipelines"]
    }

    assert sent <= set(load_presets().by_name)
    assert all(packaged(name) for name in load_presets().by_name)


@pytest.mark.parametrize("name", list(example("mlw_named_pipelines_agro")["pipelines"]))
def test_a_packaged_preset_does_what_the_agricultural_worker_did_and_adds_only_numbers(name: str) -> None:
    did = [
        {"estimation": "count"}.get(step, step)
        for step in example("mlw_named_pipelines_agro")["pipelines"][name]
    ]

    assert [step for step in packaged(name) if step in did] == did
    assert set(packaged(name)) - set(did) <= {"count", "size_calculator"}


def test_only_the_pipeline_of_invented_steps_is_refused_and_every_one_of_them_is_named() -> None:
    definition, problems = read_definition(example("mlw_pipeline_test_nested_chains"))
    assert problems == []
    assert definition is not None

    with pytest.raises(InvalidPipeline) as refused:
        parse(definition, load_steps(plugins=False))

    found = {problem.path: problem.message for problem in refused.value.problems}
    assert list(found) == ["steps.0.name", "steps.1.steps.0.name", "steps.1.steps.1.name", "steps.2.name"]
    for message, name in zip(found.values(), ("outer_1", "inner_1", "inner_2", "outer_2"), strict=True):
        assert message.startswith(f"no step is named '{name}'; ")
        assert "detection" in message  # a hint of what there is
