"""Steps that do what a test tells them, in a registry of their own."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from pydantic import Field

from pipeline_steps.artifacts import Detections, Image, Upload, Uploads
from pipeline_steps.context import StepContext
from pipeline_steps.errors import InvalidInput, StoreUnavailable
from pipeline_steps.registry import StepParams, StepRegistry, step


class WaitParams(StepParams):
    seconds: float = Field(0.0, description="How long.")


class FailParams(StepParams):
    how: str = Field("permanent", description="permanent, transient, memory or internal.")
    times: int = Field(1000, description="How often.")


@dataclass
class Toys:
    """The registry, and how often each step ran for each image."""

    registry: StepRegistry = field(default_factory=StepRegistry)
    runs: Counter[str] = field(default_factory=Counter)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    beside: dict[str, int] = field(default_factory=dict)
    """How many others ran, for each image, when its step began."""
    now: int = 0


def toy_steps() -> Toys:
    toys = Toys()

    @step("look", registry=toys.registry)
    async def look(image: Image, ctx: StepContext) -> Detections:
        """Find nothing."""
        toys.runs[ctx.job.image_id] += 1
        return Detections.none()

    @step("wait", registry=toys.registry)
    async def wait(image: Image, params: WaitParams, ctx: StepContext) -> Detections:
        """Take a while."""
        toys.runs[ctx.job.image_id] += 1
        await asyncio.sleep(params.seconds)
        return Detections.none()

    @step("hold_the_thread", registry=toys.registry)
    def hold_the_thread(image: Image, params: WaitParams) -> Detections:
        """Take a while in a thread."""
        time.sleep(params.seconds)
        return Detections.none()

    @step("wait_for_the_gate", registry=toys.registry)
    async def wait_for_the_gate(image: Image, ctx: StepContext) -> Detections:
        """Take until the test says so."""
        toys.runs[ctx.job.image_id] += 1
        toys.beside[ctx.job.image_id] = toys.now
        toys.now += 1
        try:
            await toys.gate.wait()
        finally:
            toys.now -= 1
        return Detections.none()

    @step("fail", registry=toys.registry)
    async def fail(image: Image, params: FailParams, ctx: StepContext) -> Detections:
        """Fail as told."""
        toys.runs[ctx.job.image_id] += 1
        if toys.runs[ctx.job.image_id] <= params.times:
            match params.how:
                case "permanent":
                    raise InvalidInput("this photo cannot be done")
                case "transient":
                    raise StoreUnavailable("a bad moment")
                case "memory":
                    raise MemoryError
                case _:
                    raise ZeroDivisionError("nobody foresaw this")
        return Detections.none()

    @step("store", registry=toys.registry)
    async def store(image: Image, ctx: StepContext) -> Uploads:
        """Write a file."""
        name = f"originals/{ctx.job.image_id}-copy.jpg"
        url = await ctx.store.write(name, b"copy", content_type="image/jpeg")
        return Uploads((Upload("original", url, 1, 1),))

    return toys
