"""`models.yaml`: what is read, and what is said of what cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.models.manifest import InvalidManifest, Manifest, load_manifest, parse_manifest
from pipeline_steps.models import ModelKind

PLANTS: dict[str, Any] = {
    "name": "plants",
    "kind": "detection",
    "architecture": "fcos_small",
    "weights": "plants.safetensors",
    "sha256": "a" * 64,
    "version": "2025-06-01",
    "classes": ["plant", "weed"],
    "threshold": 0.45,
    "input_size": 640,
}


def parse(*models: Any) -> Manifest:
    return parse_manifest(yaml.safe_dump({"models": list(models)}).encode(), base="/models")


def problems(*models: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidManifest) as caught:
        parse(*models)
    return caught.value.problems


def test_a_model_is_known_without_loading_it(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": [PLANTS]}))

    manifest = load_manifest(tmp_path)

    spec = manifest.specs()["plants"]
    assert (spec.kind, spec.classes, spec.threshold) == (ModelKind.DETECTION, ("plant", "weed"), 0.45)
    assert manifest.models["plants"].pinned
    assert manifest.location(manifest.models["plants"]) == f"{tmp_path}/plants.safetensors"


def test_a_model_without_a_threshold_leaves_it_to_the_steps() -> None:
    without = {key: value for key, value in PLANTS.items() if key != "threshold"}

    spec = parse(without).specs()["plants"]

    assert spec.threshold is None
    assert [spec.least(None, 0.8), spec.least(0.0, 0.8)] == [0.8, 0.0]
    assert parse(PLANTS).specs()["plants"].least(None, 0.8) == 0.45


def test_everything_wrong_is_said_at_once_with_its_path() -> None:
    said = problems(
        PLANTS | {"kind": "detecton", "threshold": 1.5},
        PLANTS | {"name": "trays", "treshold": 0.3, "version": 1.0},
        {"name": "sizes", "kind": "classification"},
        "plants",
    )

    assert [line.partition(":")[0] for line in said] == [
        "models.0.kind",
        "models.0.threshold",
        "models.1.version",
        "models.1.treshold",
        "models.2.weights",
        "models.2.sha256",
        "models.2.version",
        "models.2.input_size",
        "models.3",
    ]
    assert "got 'detecton'; did you mean 'detection'?" in said[0]
    assert said[2].endswith("expected text, got 1.0: put it in quotes")
    assert said[3].endswith("unknown key; did you mean 'threshold'?")
    assert said[4].endswith("missing")


@pytest.mark.parametrize(
    ("said", "precision"),
    [
        ({}, "exact"),
        ({"precision": "exact"}, "exact"),
        ({"precision": "exact", "dtype": "float32"}, "exact"),
        ({"dtype": "float32"}, "exact"),
        ({"precision": "fast"}, "fast"),
        ({"precision": "fast", "dtype": "float16"}, "fast"),
        ({"dtype": "bfloat16"}, "fast"),
    ],
)
def test_a_models_precision_is_said_by_either_name(said: dict[str, str], precision: str) -> None:
    assert parse(PLANTS | said).specs()["plants"].precision == precision


@pytest.mark.parametrize(
    ("change", "where", "why"),
    [
        ({"sha256": "A" * 64}, "sha256", "lower-case hexadecimal"),
        ({"classes": []}, "classes", "at least one"),
        ({"classes": ["plant", "plant"]}, "classes", "named twice: plant"),
        ({"kind": "sam"}, "classes", "has none"),
        ({"kind": "torchscript"}, "weights", "archive"),
        ({"kind": "torchscript", "weights": "p.pt", "dtype": "float16"}, "dtype", "as it was made to"),
        ({"kind": "torchscript", "weights": "p.pt", "precision": "fast"}, "precision", "as it was made to"),
        ({"precision": "fsat"}, "precision", "one of exact, fast, got 'fsat'; did you mean 'fast'?"),
        ({"precision": "fast", "dtype": "float32"}, "dtype", "float32 is not what `precision: fast`"),
        ({"precision": "exact", "dtype": "float16"}, "dtype", "float16 is not what `precision: exact`"),
        ({"architecture": ""}, "architecture", "needs one"),
        ({"max_batch": 0}, "max_batch", "greater than or equal to 1"),
        ({"input_size": "640"}, "input_size", "valid integer"),
        ({"name": "../x"}, "name", "pattern"),
        ({"weights": "plants.bin"}, "weights", "ending in .safetensors"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], where: str, why: str) -> None:
    (said,) = problems(PLANTS | change)

    assert said.startswith(f"models.0.{where}: ")
    assert why in said


@pytest.mark.parametrize(
    "weights",
    [
        "../plants.safetensors",
        "a/../../plants.safetensors",
        "/etc/plants.safetensors",
        "..\\plants.safetensors",
        "gs://bucket/../other/plants.safetensors",
        "gs://bucket//plants.safetensors",
        "https://example.com/plants.safetensors",
        "file:///plants.safetensors",
        "plants\n.safetensors",
    ],
)
def test_weights_may_not_leave_the_folder(weights: str) -> None:
    (said,) = problems(PLANTS | {"weights": weights})

    assert said.startswith("models.0.weights: expected ")


def test_a_link_may_not_lead_out_of_the_folder_either(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"")
    (folder / "plants.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": [PLANTS]}))

    with pytest.raises(InvalidManifest, match="leads out of the folder"):
        load_manifest(folder)


def test_two_models_of_one_name_are_refused() -> None:
    assert problems(PLANTS, PLANTS) == ("models.1.name: 'plants' is models.0 already",)


def test_a_key_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="'models' stands there twice"):
        parse_manifest(b"models: []\nmodels: []\n", base="/models")


@pytest.mark.parametrize("data", [b"models: [", b"\xff\xfe\x00", b"", b"models: {}", b"[1]"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        parse_manifest(data, base="/models")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
_FIELDS = st.dictionaries(st.sampled_from([*PLANTS, "tenants", "pinned", "dtype", "max_batch"]), _JSON)


@given(st.lists(_FIELDS.map(lambda change: PLANTS | change) | _JSON, max_size=3))
@settings(deadline=None)
def test_whatever_stands_there_is_read_or_refused_with_a_path(models: list[Any]) -> None:
    said: tuple[str, ...] = ()
    try:
        parse(*models)
    except InvalidManifest as refused:
        said = refused.problems

    assert all(problem.startswith("models.") for problem in said)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidManifest, match=r"models\.yaml cannot be used:\n  cannot be read: No such file"
    ):
        load_manifest(tmp_path)


def test_a_tenant_may_have_its_own_model() -> None:
    manifest = parse(PLANTS | {"tenants": {"acme": "acme_plants"}}, PLANTS | {"name": "acme_plants"})

    assert manifest.for_tenant("plants", "acme") == "acme_plants"
    assert manifest.for_tenant("plants", "other") == "plants"
    assert manifest.for_tenant("unknown", "acme") == "unknown"


def test_a_tenants_model_must_exist_and_be_of_the_same_kind() -> None:
    sam = PLANTS | {"name": "sam", "kind": "sam", "classes": []}

    said = problems(PLANTS | {"tenants": {"acme": "plant", "beta": "sam"}}, sam)

    assert said == (
        "models.0.tenants.acme: no model is named 'plant'; did you mean 'plants'?",
        "models.0.tenants.beta: 'sam' is a sam model, 'plants' a detection model",
    )


def test_weights_may_be_in_a_bucket_as_the_manifest_itself() -> None:
    data = yaml.safe_dump({"models": [PLANTS, PLANTS | {"name": "b", "weights": "gs://other/b.pt"}]}).encode()

    manifest = parse_manifest(data, base="gs://bucket/models")

    assert [manifest.location(model) for model in manifest.models.values()] == [
        "gs://bucket/models/plants.safetensors",
        "gs://other/b.pt",
    ]


def test_reading_a_manifest_does_not_import_torch() -> None:
    code = "import sys, consumer.models.manifest; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
