"""`mlworker validate`: every problem, each with its path and what was expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from consumer.cli import app
from tests.command import mlworker

EXAMPLES = sorted((Path(__file__).parents[1] / "contracts" / "examples").glob("*.json"))
REFUSED = {
    "be_callback_results_full": {"steps", "sessionId", "imageId", "detections"},
    "be_session_status": {"steps", "sessionId"},
    "mlw_pipeline_test_nested_chains": {
        "steps.0.name", "steps.1.steps.0.name", "steps.1.steps.1.name", "steps.2.name",
    },
}  # fmt: skip
"""Examples that are no pipelines, or name steps that were never written; and paths of their problems."""

MODELS = {
    "plants": {"kind": "detection", "classes": ["plant"]},
    "containers": {"kind": "detection", "classes": ["segmento", "cajon", "claro-cajon"]},
    "sam": {"kind": "sam"},
    "species": {"kind": "classification", "classes": ["ficus", "aloe"]},
}
"""What the packaged pipelines ask for."""
FILE = {
    "architecture": "any",
    "weights": "a.safetensors",
    "sha256": "ab" * 32,
    "version": "1",
    "input_size": 640,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models = [{"name": name, **FILE, **model} for name, model in MODELS.items()]
    (folder / "models.yaml").write_text(json.dumps({"models": models}))
    return folder


def validate(file: Path | str, *options: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["validate", str(file), *options], input=stdin)


def problems_in(result: Result) -> dict[str, str]:
    """Return the problem at each path; warnings are told beside them."""
    told = (line.split(": ", 1) for line in result.stderr.splitlines() if not line.startswith("warning: "))
    return dict(told)


def written(folder: Path, content: Any) -> Path:
    file = folder / "file.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def detection(**kwargs: Any) -> dict[str, Any]:
    return {"steps": [{"type": "step", "name": "detection", "kwargs": kwargs}]}


# ---------------------------------------------------------------------------- what users really send


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_valid_or_every_problem_has_its_path(file: Path, models: Path) -> None:
    result = validate(file, "--model-path", str(models))

    refused = REFUSED.get(file.stem)
    assert result.exit_code == (2 if refused else 0), result.stderr
    if refused:
        assert refused <= problems_in(result).keys()
        assert result.stdout == ""
    else:
        assert result.stdout.startswith("valid: a ")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_json_report_says_the_same(file: Path, models: Path) -> None:
    result = validate(file, "--model-path", str(models), "--json")

    report = json.loads(result.stdout)
    assert report.keys() == {"valid", "what", "problems", "warnings"}
    assert report["valid"] is (file.stem not in REFUSED)
    assert REFUSED.get(file.stem, set()) <= {problem["path"] for problem in report["problems"]}
    assert result.exit_code == (2 if report["problems"] else 0)
    assert result.stderr == ""


def test_the_packaged_models_serve_the_documented_request() -> None:
    [request] = [file for file in EXAMPLES if file.stem == "mlw_req_claude_md_fixed"]

    assert validate(request).exit_code == 0


def test_a_warning_is_no_problem(models: Path) -> None:
    [request] = [file for file in EXAMPLES if file.stem == "mlw_req_claude_md_fixed"]
    result = validate(request, "--model-path", str(models))

    assert (result.exit_code, result.stdout) == (0, "valid: a processing request\n")
    assert result.stderr.startswith("warning: steps.7: send_results_backend is ignored")


# ---------------------------------------------------------------------------- problems


def test_all_problems_are_told_at_once_with_the_nearest_names(tmp_path: Path, models: Path) -> None:
    file = written(
        tmp_path,
        {
            "steps": [
                {"type": "step", "name": "detecton"},
                {"type": "step", "name": "detection", "kwargs": {"confidance": 0.5}},
                {"type": "step", "name": "detection", "kwargs": {"confidence": 7}},
                {"type": "step", "name": "detection", "kwargs": {"model": "plant"}},
                {"type": "step", "name": "segment_filter"},
                {"type": "stap", "name": "count"},
            ]
        },
    )
    result = validate(file, "--model-path", str(models))

    found = problems_in(result)
    assert result.exit_code == 2
    assert list(found) == [
        "steps.5.type",
        "steps.0.name",
        "steps.1.kwargs.confidance",
        "steps.2.kwargs.confidence",
        "steps.3.kwargs.model",
        "steps.4",
    ]
    assert "did you mean 'step'?" in found["steps.5.type"]
    assert "did you mean 'detection'?" in found["steps.0.name"]
    assert "did you mean 'confidence'?" in found["steps.1.kwargs.confidance"]
    assert "less than or equal to 1" in found["steps.2.kwargs.confidence"]
    assert "Did you mean 'plants'?" in found["steps.3.kwargs.model"]
    assert "segment_filter needs Segments" in found["steps.4"]


@pytest.mark.parametrize(
    ("content", "path", "words"),
    [
        (b"", "(root)", "not JSON"),
        (b'{"steps": [', "(root)", "not JSON"),
        (b"\xff\xfe", "(root)", "not JSON"),
        (b"[" * 2000 + b"]" * 2000, "(root)", "not JSON"),
        (b'{"tenant_id":' + b"[" * 400 + b"]" * 400 + b"}", "(root)", "nested too deep"),
        (b"[]", "(root)", "expected an object, got list"),
        (b"{}", "steps", "required"),
        (b'{"pipeline_definition": 5}', "pipeline_definition", "got 5"),
        (b'{"pipeline_definition": {"steps": []}, "settings": 5}', "settings", "expected an object, got int"),
        (b'{"pipeline": "DETECTON"}', "session_id", "required"),
        (b'{"pipelines": {"A": ["detecton"]}}', "pipelines.A.steps.0.name", "did you mean 'detection'?"),
    ],
)
def test_whatever_the_file_holds_is_answered(tmp_path: Path, content: bytes, path: str, words: str) -> None:
    result = validate(written(tmp_path, content))

    assert result.exit_code == 2
    assert words in problems_in(result)[path]


def test_what_a_file_says_is_never_taken_for_markup_or_orders_to_the_terminal(tmp_path: Path) -> None:
    file = written(tmp_path, detection(**{"[/red]": 1, "[bold]x[/bold]": 2, "a\x1b[31mb": 3, "c\nd": 4}))
    result = validate(file)

    assert result.exit_code == 2
    assert "steps.0.kwargs.[/red]: unknown key" in result.stderr
    assert "steps.0.kwargs.[bold]x[/bold]: unknown key" in result.stderr
    assert "steps.0.kwargs.a\\x1b[31mb: unknown key" in result.stderr
    assert "\x1b" not in result.stderr
    assert len(result.stderr.splitlines()) == 4


REQUEST = {
    "tenant_id": "acme",
    "session_id": "550e8400-e29b-41d4-a716-446655440000",
    "image_id": "660e8400-e29b-41d4-a716-446655440001",
    "image_url": "gs://photos/acme/originals/1.jpg",
    "pipeline_definition": {"steps": [{"type": "step", "name": "count"}]},
}


def told(folder: Path, content: Any, *options: str) -> dict[str, str]:
    return problems_in(validate(written(folder, content), *options))


def test_grammar_hides_neither_names_nor_parameters_nor_data_flow(tmp_path: Path) -> None:
    steps = [
        {"type": "step", "name": "detectoin"},
        {"type": "step", "name": "count", "kwarg": {"confidence": 0.5}},
        {"type": "step", "name": "size_calculator", "kwargs": {"mod": "band"}},
        {"type": "step", "name": "segment_filter"},
    ]

    assert list(told(tmp_path, {"steps": steps})) == [
        "steps.1.kwarg",
        "steps.0.name",
        "steps.2.kwargs.mod",
        "steps.3",
    ]


def test_the_envelope_hides_nothing_of_the_pipeline(tmp_path: Path) -> None:
    steps = [{"type": "step", "name": "nope"}, {"type": "step", "name": "count", "retires": 1}]
    request = {**REQUEST, "tenant_id": "x" * 65, "pipeline_definition": {"steps": steps}}

    assert list(told(tmp_path, request)) == [
        "tenant_id",
        "pipeline_definition.steps.1.retires",
        "pipeline_definition.steps.0.name",
    ]


def test_one_wrong_value_hides_nothing_else_of_its_step(tmp_path: Path, models: Path) -> None:
    steps = [
        {
            "type": "step",
            "name": "detection",
            "kwargs": {"confidence": "x", "model": "plant", "segment_type": "segmento"},
        },
        {"type": "step", "name": "detection", "kwargs": {"confidence": "x", "classes": ["plnt"]}},
        {"type": "step", "name": "segmentation"},
        {"type": "step", "name": "segment_filter"},
        {"type": "step", "name": "detection", "kwargs": {"segment_type": "segmentoo"}},
    ]
    content = {"pipeline_definition": {"steps": steps}, "settings": {"segment_filter_type": "largest"}}

    assert told(tmp_path, content, "--model-path", str(models)).keys() == {
        "pipeline_definition.steps.0.kwargs.confidence",
        "pipeline_definition.steps.0.kwargs.model",
        "pipeline_definition.steps.0",
        "pipeline_definition.steps.1.kwargs.confidence",
        "pipeline_definition.steps.1.kwargs.classes",
        "settings.segment_filter_type",
        "pipeline_definition.steps.4.kwargs.segment_type",
    }


def test_a_wrong_model_or_class_makes_nothing_else_wrong(tmp_path: Path, models: Path) -> None:
    steps = [
        {"type": "step", "name": "segmentation", "kwargs": {"classes": ["segmeto"]}},
        {"type": "step", "name": "detection", "kwargs": {"segment_type": "segmento", "model": "plant"}},
        {"type": "step", "name": "detection", "kwargs": {"model": "plant", "classes": ["plnt"]}},
        {"type": "step", "name": "detection", "kwargs": {"model": "species", "classes": ["plant"]}},
        {"type": "step", "name": "segmentation", "kwargs": {"detector": "sam"}},
        {"type": "step", "name": "detection", "kwargs": {"segment_type": "bed"}},
    ]

    assert told(tmp_path, {"steps": steps}, "--model-path", str(models)).keys() == {
        "steps.0.kwargs.classes",
        "steps.1.kwargs.model",
        "steps.2.kwargs.model",
        "steps.2.kwargs.classes",
        "steps.3.kwargs.model",
        "steps.4.kwargs.detector",
    }


def test_a_misspelt_choice_is_taken_for_what_was_meant(tmp_path: Path, models: Path) -> None:
    detection = {"type": "step", "name": "detection", "kwargs": {"segment_type": "bed"}}
    steps = [
        {"type": "map", "over": "detectons", "body": {"type": "step", "name": "count"}},
        {"type": "step", "name": "segmentation", "kwargs": {"mode": "promted"}},
        detection,
    ]

    assert told(tmp_path, {"steps": steps}, "--model-path", str(models)).keys() == {
        "steps.0.over",
        "steps.0",
        "steps.0.body",
        "steps.1.kwargs.mode",
        "steps.2.kwargs.segment_type",
    }


def test_warnings_are_told_beside_problems(tmp_path: Path) -> None:
    wrong = {**REQUEST, "tenant_id": "models", "setings": {}, "settings": {"colour": "red"}}

    report = json.loads(validate(written(tmp_path, wrong), "--json").stdout)

    assert [problem["path"] for problem in report["problems"]] == ["tenant_id"]
    assert [warning.partition(":")[0] for warning in report["warnings"]] == ["setings", "settings.colour"]


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"image_url": "gs://photos/acme/../other/x.jpg"}, "image_url", "has an empty, '.' or '..' segment"),
        ({"image_url": "gs://photos/acme//x.jpg"}, "image_url", "has an empty, '.' or '..' segment"),
        ({"image_url": "gs://Photos/acme/x.jpg"}, "image_url", "'Photos' cannot be a bucket's name"),
        ({"callback_url": "ftp://evil"}, "callback_url", "expected https://"),
        ({"callback_url": "backend/results"}, "callback_url", "names no host"),
        ({"callback_url": "https://me:secret@backend.example/"}, "callback_url", "carries credentials"),
    ],
)
def test_what_every_worker_refuses_is_a_problem(
    tmp_path: Path, changes: dict[str, str], path: str, words: str
) -> None:
    found = told(tmp_path, {**REQUEST, **changes})

    assert list(found) == [path]
    assert words in found[path]


# ---------------------------------------------------------------------------- where it reads from


def test_standard_input_is_read_for_a_dash() -> None:
    done = mlworker("validate", "-", stdin=json.dumps(detection()).encode())

    assert (done.returncode, done.stdout, done.stderr) == (0, "valid: a pipeline definition\n", "")


def test_bytes_on_standard_input_that_are_no_text_are_bad_input() -> None:
    done = mlworker("validate", "-", stdin=b"\xff\xfe\x00")

    assert done.returncode == 2
    assert done.stderr.startswith("(root): not JSON")


def test_a_file_that_cannot_be_read_is_bad_input(tmp_path: Path) -> None:
    missing, folder = validate(tmp_path / "missing.json"), validate(tmp_path)

    assert (missing.exit_code, folder.exit_code) == (2, 2)
    assert missing.stderr == f"cannot read {tmp_path}/missing.json: No such file or directory\n"
    assert folder.stderr == f"cannot read {tmp_path}: Is a directory\n"


def test_a_folder_without_a_manifest_is_bad_input(tmp_path: Path) -> None:
    result = validate(written(tmp_path, detection()), "--model-path", str(tmp_path / "none"))

    assert result.exit_code == 2
    assert result.stderr.startswith(f"--model-path: {tmp_path}/none/models.yaml")


def test_lines_are_not_broken_however_narrow_the_terminal(tmp_path: Path) -> None:
    file = written(tmp_path, {"steps": [{"type": "step", "name": "x" * 100}]})
    done = mlworker("validate", file, COLUMNS="40")

    assert len(done.stderr.splitlines()) == 1
