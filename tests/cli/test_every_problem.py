"""Mistakes planted at random in a valid request: every one is told at its path, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from consumer.pipeline.problems import Problem
from consumer.presets import load_presets
from consumer.validation import _Checker
from pipeline_steps.loading import load_steps
from pipeline_steps.models import ModelKind, ModelSpec
from tests.cli.test_validate import MODELS

Object = dict[str, Any]


def leaf(name: str, **kwargs: Any) -> Object:
    return {"type": "step", "name": name, "kwargs": kwargs}


def detection(**kwargs: Any) -> Object:
    return leaf("detection", model="plants", confidence=0.5, **kwargs)


LEAVES = st.sampled_from(
    [
        detection(),
        detection(segment_type="segmento", classes=["plant"]),
        leaf("sahi_detection", classes=["plant"], segment_type="cajon", postprocess="nms"),
        leaf("classification", model="species", over="segments"),
    ]
).map(copy.deepcopy)
ELEMENTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda kind, steps: {"type": kind, "steps": steps},
                  st.sampled_from(["chain", "group"]), st.lists(inner, max_size=3)),
        st.builds(lambda steps, callback: {"type": "chord", "group": {"steps": steps}, "callback": callback},
                  st.lists(inner, max_size=2), LEAVES),
        st.builds(lambda body: {"type": "map", "over": "segments", "body": body}, LEAVES),
    ),
    max_leaves=8,
)  # fmt: skip


def request_of(elements: list[Object]) -> Object:
    first = [
        leaf("segmentation", classes=["segmento", "cajon"]),
        leaf("segment_filter", segment_filter_type="largest_claro"),
        detection(),
        leaf("sahi_detection"),
    ]
    last = [leaf("size_calculator", mode="band"), leaf("count", confidence=0.25)]
    return {
        "tenant_id": "acme",
        "session_id": "550e8400-e29b-41d4-a716-446655440000",
        "image_id": "660e8400-e29b-41d4-a716-446655440001",
        "image_url": "gs://photos/acme/originals/1.jpg",
        "pipeline_definition": {"steps": [*first, *elements, *last]},
        "settings": {"sahi_slice_height": 640},
        "callback_url": "https://backend.example/results",
    }


# A mistake changes an object and returns where in it the problem is; None: it cannot be made there.
Mistake = Callable[[Object], str | None]


def put(key: str, value: Any) -> Mistake:
    def make(element: Object) -> str | None:
        element[key] = value
        return key

    return make


def put_kwarg(key: str, value: Any, instead_of: Any = None) -> Mistake:
    """Set a kwarg; `instead_of` is the kwarg that a step must have for it to be a mistake of that kind."""

    def make(element: Object) -> str | None:
        kwargs = element["kwargs"]
        if instead_of is not None and instead_of not in kwargs:
            return None
        kwargs[key] = value
        return f"kwargs.{key}"

    return make


def misspell(key: str) -> Mistake:
    """Leave the second letter of a key out."""

    def make(element: Object) -> str | None:
        if key not in element:
            return None
        wrong = key[0] + key[2:]
        element[wrong] = element.pop(key)
        return wrong

    return make


def misspell_value(key: str) -> Mistake:
    def make(element: Object) -> str | None:
        if key not in element:
            return None
        element[key] = element[key][0] + element[key][2:]
        return key

    return make


def misspell_kwarg(element: Object) -> str | None:
    kwargs = element["kwargs"]
    if not kwargs:
        return None
    key = sorted(kwargs)[0]
    kwargs[key[0] + key[2:]] = kwargs.pop(key)
    return f"kwargs.{key[0] + key[2:]}"


# What they leave of a segmentation still tells which labels there can be.
IN_SEGMENTATIONS = [
    put_kwarg("classes", ["segmeto", "cajon"]),
    put_kwarg("detector", "contaners"),
    put_kwarg("mode", "promted"),
    put_kwarg("confidence", "high"),
    put_kwarg("zzz", 1),
]
IN_ANY = [misspell_value("type"), put("colour", 1), misspell("type")]
IN_STEPS = [
    *IN_ANY,
    misspell_value("name"),
    misspell("name"),
    misspell("kwargs"),
    misspell_kwarg,
    put("retries", 99),
    put("timeout_s", "soon"),
    put("timeout_s", 4000),
    put("on_error", "ignore"),
    put_kwarg("zzz", 1),
    put_kwarg("confidence", "high", instead_of="confidence"),
    put_kwarg("model", "nonesuch", instead_of="model"),
    put_kwarg("segment_type", "segmentoo", instead_of="segment_type"),
    put_kwarg("classes", ["plnt"], instead_of="classes"),
    put_kwarg("mode", "bands", instead_of="mode"),
    put_kwarg("segment_filter_type", 5, instead_of="segment_filter_type"),
]
IN_CONTAINERS = [
    *IN_ANY, misspell("steps"), misspell("group"), misspell("callback"), misspell("body"), misspell("over"),
]  # fmt: skip
IN_GROUPS = [*IN_CONTAINERS, put("min_success", 5), put("on_error", 5)]
IN_MAPS = [*IN_GROUPS, put("over", "photos"), put("max_concurrency", 0)]
IN_ENVELOPES = [
    put("tenant_id", "x" * 65),
    put("session_id", "7"),
    put("image_url", "gs://Photos/acme/1.jpg"),
    put("image_url", "gs://photos/acme/../1.jpg"),
    put("callback_url", "ftp://backend.example/"),
    misspell("image_id"),
    misspell("pipeline_definition"),
]


def mistakes_in(element: Object) -> list[Mistake]:
    if "tenant_id" in element:
        return IN_ENVELOPES
    if "sahi_slice_height" in element:
        return [put("sahi_slice_height", "tall")]
    match element.get("type"):
        case "step":
            return IN_SEGMENTATIONS if element["name"] == "segmentation" else IN_STEPS
        case "group":
            return IN_GROUPS
        case "map":
            return IN_MAPS
        case "chain" | "chord":
            return IN_CONTAINERS
    return [put("colour", 1)]  # the root, and a chord's group: they need no type


def objects(value: Any, path: str = "") -> Iterator[tuple[Object, str]]:
    """Yield everything that has keys of its own to be wrong, with its path."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from objects(item, f"{path}.{i}")
    elif isinstance(value, dict):
        yield value, path
        for key, item in value.items():
            if not key.startswith("k"):  # kwargs, however they are written
                yield from objects(item, f"{path}.{key}" if path else key)


SPECS = {
    name: ModelSpec(
        name, ModelKind(str(model["kind"])), "1", "ab" * 32, tuple(model.get("classes", ())), None, 640
    )
    for name, model in MODELS.items()
}
CHECKER = _Checker(load_steps(plugins=False), SPECS)


def told_of(request: Object) -> list[Problem]:
    return [*CHECKER.message(orjson.loads(orjson.dumps(request))).problems]


@pytest.fixture(autouse=True)
def presets_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.validation.load_presets", cache(load_presets))


@settings(
    max_examples=60,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=list(HealthCheck),
)
@given(elements=st.lists(ELEMENTS, max_size=4), data=st.data())
def test_every_planted_mistake_is_told_at_its_path_and_nothing_else(
    elements: list[Object], data: st.DataObject
) -> None:
    request = copy.deepcopy(request_of(elements))
    assert told_of(request) == []

    places = [element for element, _ in objects(request)]
    planted: list[tuple[Object, str]] = []
    for number in data.draw(st.sets(st.integers(0, len(places) - 1), min_size=1, max_size=8)):
        where = data.draw(st.sampled_from(mistakes_in(places[number])))(places[number])
        if where is not None:
            planted.append((places[number], where))
    steps = next(value for key, value in request.items() if key.startswith("p"))
    steps = next(value for key, value in steps.items() if key.startswith("s"))
    for odd, where in data.draw(
        st.sampled_from([[], [({"type": "step", "name": "nope"}, "name")], [({"type": 7}, "type")]])
    ):
        odd = dict(odd)
        steps.append(odd)
        planted.append((odd, where))
    if data.draw(st.booleans()):
        too_early = {"type": "step", "name": "species_distributor"}
        steps.insert(0, too_early)
        planted.append((too_early, ""))

    expected = sorted(
        f"{path}.{where}".strip(".")
        for wrong, where in planted
        for element, path in objects(request)
        if element is wrong
    )
    told = told_of(request)

    assert sorted(problem.path for problem in told) == expected, list(map(str, told))
