"""The demo's pipeline uses every model there is, and is valid whichever there are."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from consumer.local.pipelines import fullest_pipeline, route_of
from consumer.pipeline.parse import parse
from consumer.routes import parse_routes
from contracts.pipeline import StepDefinition
from pipeline_steps.loading import load_steps
from pipeline_steps.models import ModelKind, ModelSpec

KINDS = {
    "plants": ModelKind.DETECTION,
    "containers": ModelKind.DETECTION,
    "sam": ModelKind.SAM,
    "species": ModelKind.CLASSIFICATION,
}
OPTIONAL = ("containers", "sam", "species")
SUBSETS = list(chain.from_iterable(combinations(OPTIONAL, size) for size in range(4)))


def models(*names: str) -> dict[str, ModelSpec]:
    return {name: ModelSpec(name, KINDS[name], "1", "0" * 64, ("a",), 0.5, 640) for name in names}


def steps(*names: str) -> list[str]:
    found = fullest_pipeline(models("plants", *names), species=True).steps
    return [element.name for element in found if isinstance(element, StepDefinition)]


@pytest.mark.parametrize("optional", SUBSETS, ids="+".join)
def test_it_is_valid_with_any_of_the_optional_models(optional: tuple[str, ...]) -> None:
    known = models("plants", *optional)
    definition = fullest_pipeline(known, species=True, keep_original=True)

    parsed = parse(
        definition, load_steps(), settings={"species": ["rosa"]}, models=known, pipeline_timeout=60
    )

    assert parsed.warnings == ()


def test_each_model_adds_its_steps() -> None:
    numbers, pictures = ["size_calculator", "species_distributor"], ["visualize_detections", "upload_image"]

    assert steps() == ["detection", "count", *numbers, *pictures]
    assert steps("containers", "sam")[:3] == ["segmentation", "segment_filter", "detection"]
    assert "classification" in steps("species")


def test_its_route_takes_any_tenants_originals() -> None:
    route = route_of("photos", fullest_pipeline(models("plants")), {"species": ["rosa"]})

    routes = parse_routes({"routes": [route]}, "here")

    found = routes.find("photos", "acme/originals/a.jpg")
    assert found is not None
    assert found[1] == "acme"
    assert found[0].settings == {"species": ["rosa"]}
    assert routes.find("photos", "acme/uploads/a.jpg") is None
