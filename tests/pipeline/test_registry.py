"""A step's signature is its declaration, read and checked when its module is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional, Union

import pytest

from pipeline_steps.artifacts import Crops, Detections, Image, Overlay, Segments
from pipeline_steps.context import StepContext
from pipeline_steps.loading import load_steps
from pipeline_steps.registry import InvalidStep, StepParams, StepRegistry, setting, settings_read_by, step


class SomeParams(StepParams):
    """One of the toys'."""

    n: int = setting("how_many", 3, ge=0)
    label: str = "plant"


class OtherParams(StepParams):
    """Another."""


class TwiceRead(StepParams):
    """Two parameters that read one setting: neither a reader nor a parser could tell which is meant."""

    a: int = setting("shared", 1)
    b: int = setting("shared", 2)


def registered(function: Callable[..., Any]) -> Any:
    registry = StepRegistry()
    assert step("toy", registry=registry)(function) is function  # it stays what it is
    return registry["toy"]


def test_a_signature_tells_everything() -> None:
    async def toy(
        image: Image, segments: Segments | None, params: SomeParams, ctx: StepContext
    ) -> tuple[Detections, Overlay]:
        """Find toys.

        And more.
        """
        raise NotImplementedError

    read = registered(toy)

    assert (read.name, read.summary, read.run) == ("toy", "Find toys.", toy)
    assert read.reads == {"image": Image, "segments": Segments}
    assert read.requires == {Image}
    assert read.writes == (Detections, Overlay)
    assert (read.params, read.params_argument, read.context_argument) == (SomeParams, "params", "ctx")
    assert read.refines == frozenset()


def test_a_step_needs_nothing_at_all() -> None:
    def toy() -> None:
        pass

    read = registered(toy)

    assert (read.reads, read.writes, read.requires, read.summary) == ({}, (), frozenset(), "")
    assert (read.params, read.params_argument, read.context_argument) == (StepParams, None, None)


def test_what_is_read_and_written_is_refined() -> None:
    def toy(segments: Segments, image: Image | None) -> tuple[Segments, Crops]:
        raise NotImplementedError

    assert registered(toy).refines == {Segments}


def test_optional_may_be_written_in_any_way() -> None:
    def toy(a: Image | None, b: Optional[Segments], c: Union[Crops, None]) -> None:  # noqa: UP007, UP045
        pass

    assert registered(toy).requires == frozenset()


def no_annotation(image) -> None:  # type: ignore[no-untyped-def]
    pass


def a_builtin(image: Image, n: int) -> None:
    pass


def a_choice(image: Image | Crops) -> None:
    pass


def a_list(images: list[Image]) -> None:
    pass


def any_number(*images: Image) -> None:
    pass


def any_names(**params: SomeParams) -> None:
    pass


def by_place_only(image: Image, /) -> None:
    pass


def two_params(a: SomeParams, b: OtherParams) -> None:
    pass


def two_contexts(a: StepContext, b: StepContext) -> None:
    pass


def reads_a_setting_twice(params: TwiceRead) -> None:
    pass


def returns_a_number(image: Image) -> int:
    raise NotImplementedError


def returns_perhaps(image: Image) -> Detections | None:
    raise NotImplementedError


def returns_any_number(image: Image) -> tuple[Detections, ...]:
    raise NotImplementedError


def returns_one_twice(image: Image) -> tuple[Detections, Detections]:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (no_annotation, "argument 'image' needs a plain type, got None"),
        (a_builtin, "argument 'n' is a int, not an artifact, params or context"),
        (a_choice, "argument 'image' needs a plain type"),
        (a_list, "argument 'images' needs a plain type"),
        (any_number, "argument 'images' cannot be passed by its name"),
        (any_names, "argument 'params' cannot be passed by its name"),
        (by_place_only, "argument 'image' cannot be passed by its name"),
        (two_params, "argument 'b' is a second OtherParams"),
        (two_contexts, "argument 'b' is a second StepContext"),
        (reads_a_setting_twice, "TwiceRead: a and b read the same setting"),
        (returns_a_number, "expected artifacts, a tuple of them, or None"),
        (returns_perhaps, "expected artifacts, a tuple of them, or None"),
        (returns_any_number, "expected artifacts, a tuple of them, or None"),
        (returns_one_twice, "returns the same artifact twice"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_anything_else_is_refused_at_import(function: Callable[..., Any], expected: str) -> None:
    with pytest.raises(InvalidStep) as refused:
        registered(function)

    assert expected in str(refused.value)


def test_a_name_belongs_to_one_step() -> None:
    registry = StepRegistry()

    def one(image: Image) -> None:
        pass

    def other(image: Image) -> None:
        pass

    step("toy", registry=registry)(one)
    step("toy", registry=registry)(one)  # importing a module twice is no mistake
    with pytest.raises(InvalidStep, match=r"two steps are named 'toy': .*one and .*other"):
        step("toy", registry=registry)(other)


def test_settings_are_known_by_the_parameters_that_read_them() -> None:
    registry = StepRegistry()

    def toy(params: SomeParams) -> None:
        pass

    step("toy", registry=registry)(toy)

    assert settings_read_by(SomeParams) == {"how_many": "n"}
    assert registry.known_settings() == {"how_many"}


def test_registries_share_nothing() -> None:
    one, other = StepRegistry(), StepRegistry()

    step("toy", registry=one)(lambda: None)

    assert one.names() == ["toy"]
    assert other.names() == []
    assert "toy" not in load_steps(plugins=False)


def test_a_step_may_say_that_it_needs_no_whole_picture() -> None:
    registry = StepRegistry()

    def tiles(image: Image) -> None: ...

    def size(image: Image) -> None: ...

    step("tiles", registry=registry)(tiles)
    step("size", registry=registry, in_windows=True)(size)

    assert not registry["tiles"].in_windows
    assert registry["size"].in_windows


def test_our_own_steps_are_all_there_and_say_what_they_do() -> None:
    steps = load_steps(plugins=False)

    assert set(steps.names()) >= {
        "aggregate_detections",
        "classification",
        "count",
        "detection",
        "estimate_bands",
        "estimate_density",
        "sahi_detection",
        "segment_filter",
        "segmentation",
        "size_calculator",
        "species_distributor",
        "upload_image",
        "visualize_detections",
    }
    assert "send_results_backend" in steps.ignored
    assert all(one.summary.endswith((".", ":")) for one in steps)
    assert all(info.description for one in steps for info in one.params.model_fields.values())
