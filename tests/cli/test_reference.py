"""`mlworker steps`, `settings` and `schema`: the reference that the code itself gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from consumer.cli import app
from consumer.settings import Settings
from contracts.schemas import json_schemas
from pipeline_steps.loading import load_steps

WIDE = {"COLUMNS": "200"}


def invoke(*arguments: str | Path, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in arguments], env={**WIDE, **environment})


def steps_as_json(*arguments: str) -> list[dict[str, Any]]:
    result = invoke("steps", *arguments, "--json")
    assert result.exit_code == 0
    steps: list[dict[str, Any]] = json.loads(result.stdout)
    return steps


def test_steps_lists_every_step_with_what_it_reads_and_writes() -> None:
    shown = invoke("steps").stdout

    for step in load_steps(plugins=False):
        assert f"\n{step.name} " in f"\n{shown}"
        assert step.summary in shown
    assert "Image, Segments?, Crops? → Detections" in shown


def test_a_step_is_shown_in_full_with_types_defaults_and_settings() -> None:
    shown = invoke("steps", "sahi_detection").stdout

    assert "sahi_detection  Find small things" in shown
    assert "reads   Image, Segments?, Crops?" in shown
    assert "writes  Detections" in shown
    assert "sahi_slice_height  integer 64 to 8192  = 512  (or the setting sahi_slice_height)" in shown
    assert "postprocess  greedynmm | nmm | nms  = greedynmm" in shown
    assert "segment_type  text  = (unset)" in shown
    assert "Raises" not in shown


@pytest.mark.parametrize("name", load_steps(plugins=False).names())
def test_every_step_tells_about_all_its_parameters(name: str) -> None:
    shown = invoke("steps", name).stdout

    parameters = load_steps(plugins=False)[name].params.model_fields
    assert [name for name, info in parameters.items() if str(info.description)[:40] not in shown] == []
    assert [name for name in parameters if f"\n  {name}  " not in shown] == []


def test_an_unknown_step_is_bad_input_with_the_nearest_name() -> None:
    result = invoke("steps", "sahi_detecton")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "no step is named 'sahi_detecton'; did you mean 'sahi_detection'?\n"


def test_a_name_that_is_accepted_and_does_nothing_says_so() -> None:
    result = invoke("steps", "send_results_backend")

    assert result.exit_code == 2
    assert "does nothing: delivery is the worker's own job" in result.stderr


def test_steps_as_json_have_all_that_a_form_needs() -> None:
    steps = {step["name"]: step for step in steps_as_json()}

    assert list(steps) == load_steps(plugins=False).names()
    for step in steps.values():
        assert step.keys() == {"name", "summary", "description", "inputs", "outputs", "params", "schema"}
        assert all(one["description"] for one in step["params"])
        assert [one["name"] for one in step["params"]] == list(step["schema"].get("properties", {}))
    sahi = steps["sahi_detection"]
    assert sahi["inputs"] == {"Image": True, "Segments": False, "Crops": False}
    assert sahi["outputs"] == ["Detections"]
    assert sahi["schema"]["properties"]["sahi_slice_height"]["maximum"] == 8192
    [overlap] = [one for one in sahi["params"] if one["name"] == "sahi_overlap_ratio"]
    assert overlap == {
        "name": "sahi_overlap_ratio",
        "type": "number 0 to 0.9",
        "required": False,
        "default": 0.25,
        "description": overlap["description"],
        "setting": "sahi_overlap_ratio",
    }


def test_one_step_as_json_is_that_step_alone() -> None:
    assert [step["name"] for step in steps_as_json("count")] == ["count"]


def test_settings_lists_every_variable() -> None:
    shown = invoke("settings").stdout

    assert [name for name in Settings.model_fields if f"\n{name.upper()} " not in f"\n{shown}"] == []
    assert re.search(r"^BUCKET +required ", shown, re.MULTILINE)
    assert re.search(r"^DRAIN_TIMEOUT +300 ", shown, re.MULTILINE)


def test_settings_as_json_have_defaults_of_their_own_type() -> None:
    found = {one["name"]: one for one in json.loads(invoke("settings", "--json").stdout)}

    assert list(found) == [name.upper() for name in Settings.model_fields]
    assert [name for name, one in found.items() if one["required"]] == [
        name.upper() for name, info in Settings.model_fields.items() if info.is_required()
    ]
    assert (found["DRAIN_TIMEOUT"]["default"], found["IMAGE_PREFIXES"]["default"]) == (
        300.0,
        ["{tenant_id}/"],
    )
    assert found["ALLOW_SHARED_PREFIXES"]["default"] is False
    assert all(one["description"] for one in found.values())


@pytest.mark.parametrize("command", ["steps", "settings", "steps detection"])
def test_tables_fit_a_narrow_terminal(command: str) -> None:
    shown = invoke(*command.split(), COLUMNS="80").stdout

    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_schema_writes_what_is_committed(tmp_path: Path) -> None:
    result = invoke("schema", "--out", tmp_path / "new" / "folder")

    written = sorted((tmp_path / "new" / "folder").iterdir())
    assert sorted(result.stdout.splitlines()) == [str(path) for path in written]
    assert [path.stem for path in written] == sorted(json_schemas())
    committed = Path(__file__).parents[2] / "contracts" / "schemas"
    assert {path.name: path.read_text() for path in written} == {
        path.name: path.read_text() for path in committed.iterdir()
    }


def test_schema_into_a_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("schema", "--out", tmp_path / "file")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"cannot write {tmp_path}/file/")
