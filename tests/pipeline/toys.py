"""Toy steps over the real artifacts: their parameters tell what they find, so a test knows it beforehand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from pydantic import Field

from consumer.pipeline.execute import execute
from consumer.pipeline.parse import parse
from consumer.pipeline.run import Run, StepFailed
from contracts.pipeline import ElementDefinition, PipelineDefinition
from pipeline_steps.artifact import Artifacts, Ids
from pipeline_steps.artifacts import (
    Classifications,
    Crops,
    Detections,
    Image,
    Overlay,
    Segments,
    Sizes,
    Totals,
    Upload,
    Uploads,
)
from pipeline_steps.context import Deadline, JobInfo, StepContext, TenantStore
from pipeline_steps.errors import (
    DeviceOverloaded,
    InvalidInput,
    ModelUnavailable,
    StoreUnavailable,
    Superseded,
)
from pipeline_steps.models import Models
from pipeline_steps.names import Names
from pipeline_steps.registry import Kinds, Scope, StepParams, StepRegistry, setting, step

PICTURE = Image(np.zeros((60, 80, 3), np.uint8))
ERRORS: dict[str, Exception] = {
    "permanent": InvalidInput("the photo is to blame"),
    "transient": DeviceOverloaded("out of memory"),
    "store": StoreUnavailable("the bucket is away"),
    "configuration": ModelUnavailable("no such model"),
    "superseded": Superseded("replaced"),
    "internal": ZeroDivisionError("division by zero"),
}


class RegionsParams(StepParams):
    n: int = Field(default=2, ge=0)
    label: str = "bed"

    def segment_labels(self, scope: Scope) -> frozenset[str] | None:
        return frozenset({self.label})


class KeepParams(StepParams):
    keep: int = 1


class FindParams(StepParams):
    n: int = setting("find_n", 3, ge=0, le=20_000)
    label: str = setting("find_label", "plant")
    classes: Names = ()
    segment_type: str | None = None

    def needs(self) -> Kinds:
        return frozenset() if self.segment_type is None else frozenset({Segments})

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        if self.label == "forbidden":
            yield "label", "no detector finds what is forbidden"
        labels = scope.segment_labels
        if self.segment_type is not None and labels is not None and self.segment_type not in labels:
            yield "segment_type", f"no segment is ever {self.segment_type!r}"


class SizesParams(StepParams):
    size: int = Field(default=2, ge=1, le=4)


class UploadParams(StepParams):
    name: str = "photo"
    folder: str = "images"

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        if scope.inside_map and "{item}" not in self.name:
            yield "name", "inside a map the name must hold {item}"


class FailParams(StepParams):
    error: str = "permanent"
    times: int = 1_000_000
    """How often it fails before it goes well."""
    n: int = 1
    """How many detections it writes then."""
    items: tuple[int, ...] | None = None
    """Inside a map: which items fail; all of them if it does not say."""


class GateParams(StepParams):
    wait_for: str = ""
    then_open: str = ""
    n: int = 1


@dataclass
class Toys:
    """The toy steps, and what was seen of them: fresh for every test."""

    steps: StepRegistry = field(default_factory=StepRegistry)
    opened: dict[str, asyncio.Event] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    """The path of every call, as it began."""
    running: int = 0
    most_running: int = 0
    cancelled: list[str] = field(default_factory=list)
    release_threads: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        _declare(self)

    def event(self, name: str) -> asyncio.Event:
        return self.opened.setdefault(name, asyncio.Event())

    def parse(self, *elements: ElementDefinition, **options: Any) -> Any:
        return parse(PipelineDefinition(steps=elements), self.steps, **options)

    def execute(self, *elements: ElementDefinition, seconds: float = 60.0, **options: Any) -> Ran:
        """Parse and run the elements on the toy picture."""
        return self.execute_definition(PipelineDefinition(steps=elements), seconds=seconds, **options)

    def execute_definition(
        self, definition: PipelineDefinition, *, seconds: float = 60.0, **options: Any
    ) -> Ran:
        pipeline = parse(definition, self.steps, **options)

        async def in_loop() -> Ran:
            with ThreadPoolExecutor(4) as threads:
                run = Run(
                    JobInfo("acme", "session", "image"),
                    cast(Models, None),
                    cast(TenantStore, None),
                    Deadline.after(seconds),
                    threads,
                )
                try:
                    written = await execute(pipeline.root, Artifacts.of(PICTURE), run)
                except StepFailed as error:
                    return Ran(Artifacts(), run, error, len(run.lingering))
                finally:
                    lingering = len(run.lingering)
                    self.release_threads.set()
                return Ran(written, run, None, lingering)

        return asyncio.run(in_loop())


@dataclass(frozen=True)
class Ran:
    """How a run ended."""

    written: Artifacts
    run: Run
    error: StepFailed | None
    lingering: int
    """Threads that had not returned at its end."""

    @property
    def statuses(self) -> dict[str, str]:
        return {step.path: step.status for step in self.run.steps}

    @property
    def skipped(self) -> dict[str, str]:
        return {skip.path: skip.error for skip in self.run.skipped}


def boxes(ids: Ids, image: Image, label: str, segment: int = 0) -> Detections:
    """Return a detection for each id, in a row across the image, each as wide as its place in the row."""
    places = np.arange(len(ids), dtype=np.float32)
    xyxy = np.stack(
        [places + image.x, places * 0 + image.y, 2 * places + image.x + 1, places * 0 + image.y + 9], 1
    )
    return Detections(
        ids,
        xyxy.astype(np.float32),
        np.full(len(ids), 0.5, np.float32),
        np.full(len(ids), label),
        np.full(len(ids), segment, np.int64),
    )


def _declare(toys: Toys) -> None:
    @step("regions", registry=toys.steps)
    async def regions(image: Image, params: RegionsParams, ctx: StepContext) -> Segments:
        """Cut the picture into `n` columns."""
        n, width = params.n, image.width / max(1, params.n)
        left = np.arange(n, dtype=np.float32) * width
        xyxy = np.stack([left, left * 0, left + width, left * 0 + image.height], 1).astype(np.float32)
        area = np.full(n, width * image.height, np.float32)
        score, label = np.full(n, 0.9, np.float32), np.full(n, params.label)
        return Segments(ctx.ids(n), xyxy, score, label, area, (None,) * n)

    @step("keep", registry=toys.steps)
    def keep(
        image: Image, segments: Segments, params: KeepParams, ctx: StepContext
    ) -> tuple[Segments, Crops]:
        """Keep the first segments, and cut them out."""
        kept = segments.take(np.arange(len(segments)) < params.keep)
        return kept, Crops(
            ctx.ids(len(kept)), kept.id, kept.label, tuple(image.crop(box) for box in kept.xyxy)
        )

    @step("find", registry=toys.steps)
    async def find(
        image: Image, segments: Segments | None, params: FindParams, ctx: StepContext
    ) -> Detections:
        """Find `n` things, in the first segment if there is one."""
        toys.calls.append(ctx.path)
        segment = int(segments.id[0]) if segments is not None and len(segments) else 0
        return boxes(ctx.ids(params.n), image, params.label, segment)

    @step("thin", registry=toys.steps)
    def thin(detections: Detections, params: KeepParams) -> Detections:
        """Keep the first detections, as they are."""
        return detections.take(np.arange(len(detections)) < params.keep)

    @step("sizes", registry=toys.steps)
    async def sizes(detections: Detections, params: SizesParams) -> Sizes:
        """Say of every detection that it is as large as its box is wide."""
        width = (detections.xyxy[:, 2] - detections.xyxy[:, 0]).astype(np.int8)
        return Sizes(detections.id, width)

    @step("needs_sizes", registry=toys.steps)
    async def needs_sizes(sizes: Sizes) -> None:
        """Write nothing."""
        toys.calls.append(f"sizes of {len(sizes)}")

    @step("classify", registry=toys.steps)
    async def classify(
        image: Image, detections: Detections | None, segments: Segments | None
    ) -> Classifications:
        """Name what there is: detections if there are any, else segments, else the picture."""
        none = np.zeros(1, np.int64)
        if detections is not None:
            subject = (detections.id, np.zeros(len(detections), np.int64))
        elif segments is not None:
            subject = (np.zeros(len(segments), np.int64), segments.id)
        else:
            subject = (none, none)
        n = len(subject[0])
        return Classifications(*subject, np.full(n, f"at {image.x}"), np.full(n, 0.5, np.float32))

    @step("total", registry=toys.steps)
    async def total(detections: Detections) -> Totals:
        """Count."""
        toys.calls.append(f"total of {len(detections)}")
        n = len(detections)
        return Totals(n, n, 0, 0, 0.0, 0.5)

    @step("draw", registry=toys.steps)
    def draw(image: Image, detections: Detections | None) -> Overlay:
        """Draw nothing."""
        return Overlay(image.pixels)

    @step("upload", registry=toys.steps)
    async def upload(image: Image, params: UploadParams, ctx: StepContext) -> Uploads:
        """Say that a file was stored."""
        item = "-".join(map(str, ctx.items))
        name = f"{params.folder}/{params.name.replace('{item}', item)}"
        return Uploads((Upload("original", f"gs://bucket/{name}", image.width, image.height),))

    @step("fail", registry=toys.steps)
    async def fail(image: Image, params: FailParams, ctx: StepContext) -> Detections:
        """Raise an error of a class, some times or always."""
        toys.calls.append(ctx.path)
        chosen = params.items is None or (bool(ctx.items) and ctx.items[-1] in params.items)
        if chosen and toys.calls.count(ctx.path) <= params.times:
            raise ERRORS[params.error]
        return boxes(ctx.ids(params.n), image, "plant")

    @step("fail_in_thread", registry=toys.steps)
    def fail_in_thread(image: Image, params: FailParams, ctx: StepContext) -> Detections:
        """Raise an error in a thread, some times or always."""
        toys.calls.append(ctx.path)
        if toys.calls.count(ctx.path) <= params.times:
            raise ERRORS[params.error]
        return boxes(ctx.ids(params.n), image, "plant")

    @step("gate", registry=toys.steps)
    async def gate(image: Image, params: GateParams, ctx: StepContext) -> Detections:
        """Wait until another gate opens, then open one."""
        toys.calls.append(ctx.path)
        toys.running += 1
        toys.most_running = max(toys.most_running, toys.running)
        toys.event(f"{toys.running} at work").set()
        try:
            if params.wait_for:
                await toys.event(params.wait_for).wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            toys.cancelled.append(ctx.path)
            raise
        finally:
            toys.running -= 1
        if params.then_open:
            toys.event(params.then_open).set()
        return boxes(ctx.ids(params.n), image, f"after {params.wait_for or 'nothing'}")

    @step("last_first", registry=toys.steps)
    async def last_first(image: Image, segments: Segments, ctx: StepContext) -> Detections:
        """Inside a map: wait for the next item to be done."""
        (item,) = ctx.items
        if item + 1 < len(segments):
            await toys.event(f"item {item + 1}").wait()
        toys.event(f"item {item}").set()
        return boxes(ctx.ids(1), image, f"item {item}")

    @step("hang_in_thread", registry=toys.steps)
    def hang_in_thread(image: Image, ctx: StepContext) -> Overlay:
        """Not return before the run is over."""
        toys.calls.append(ctx.path)
        toys.release_threads.wait(30)
        return Overlay(image.pixels)

    @step("busy_in_thread", registry=toys.steps)
    def busy_in_thread(image: Image, ctx: StepContext) -> Totals:
        """Work in a thread until `release`."""
        toys.calls.append(ctx.path)
        toys.release_threads.wait(30)
        return Totals(0, 0, 0, 0, 0.0, 0.0)

    @step("slow_call", registry=toys.steps)
    async def slow_call(image: Image) -> None:
        """Give up waiting for something of its own."""
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    @step("release", registry=toys.steps)
    async def release(ctx: StepContext) -> None:
        """Let threads return."""
        toys.release_threads.set()

    @step("lie", registry=toys.steps)
    async def lie(image: Image) -> Detections:
        """Return something else than it declares."""
        return cast(Detections, Overlay(image.pixels))

    @step("silent", registry=toys.steps)
    async def silent(image: Image) -> tuple[Detections, Sizes]:
        """Return one of two."""
        return cast("tuple[Detections, Sizes]", Detections.none())

    toys.steps.ignore("send_results_backend", "delivery is the worker's own job")
