"""Steps that keep account of their runs and misbehave as a message says; installed as a plug-in (`peers.py`).

Not imported by tests: `worker.py` installs this file's text as a package of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

import consumer.brake
from pipeline_steps.artifacts import Detections, Image, Upload, Uploads
from pipeline_steps.context import StepContext
from pipeline_steps.errors import InvalidInput, StoreUnavailable
from pipeline_steps.registry import StepParams, step

RUNS = Path(os.environ["FAULTS_RUNS"])
if window := os.environ.get("FAULTS_BRAKE_WINDOW"):
    consumer.brake.WINDOW = float(window)  # five minutes are too long for a test

How = Literal["", "permanent", "transient", "raise", "memory", "disk", "kill", "segfault", "exit", "allocate"]


class WorkParams(StepParams):
    """What the run is like."""

    seconds: float = Field(0.0, description="How long it takes.")
    gate: str = Field("", description="A file that is waited for.")
    how: How = Field("", description="How it ends.")
    times: int = Field(1_000_000, description="In how many runs of this image it ends so.")


def account(what: str, image_id: str) -> None:
    """Append a line; one write, so that lines of several processes never mix."""
    line = {"what": what, "image_id": image_id, "pid": os.getpid(), "at": time.monotonic()}
    file = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


def runs_of(image_id: str) -> int:
    return sum(f'"start", "image_id": "{image_id}"' in line for line in RUNS.read_text().splitlines())


def is_open(gate: str) -> bool:
    return not gate or Path(gate).exists()


def end(params: WorkParams, image_id: str) -> None:
    """End the run as told."""
    if runs_of(image_id) > params.times:
        return
    match params.how:
        case "permanent":
            raise InvalidInput("this photo cannot be done")
        case "transient":
            raise StoreUnavailable("a bad moment")
        case "raise":
            raise ZeroDivisionError("nobody foresaw this")
        case "memory":
            raise MemoryError("told to")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(1)
        case "allocate":
            taken = [bytearray(64 << 20) for _ in range(1000)]
            del taken


@step("work")
async def work(image: Image, params: WorkParams, ctx: StepContext) -> Detections:
    """Take a while, leaving the event loop alone."""
    account("start", ctx.job.image_id)
    try:
        await asyncio.sleep(params.seconds)
        while not await asyncio.to_thread(is_open, params.gate):  # noqa: ASYNC110 (a file rings no bell)
            await asyncio.sleep(0.01)
        end(params, ctx.job.image_id)
    finally:
        account("end", ctx.job.image_id)
    return Detections.none()


@step("work_in_thread")
def work_in_thread(image: Image, params: WorkParams, ctx: StepContext) -> Detections:
    """Take a while in a thread, which nobody can interrupt."""
    account("start", ctx.job.image_id)
    try:
        time.sleep(params.seconds)
        while not is_open(params.gate):
            time.sleep(0.01)
        end(params, ctx.job.image_id)
    finally:
        account("end", ctx.job.image_id)
    return Detections.none()


@step("stop_the_loop")
async def stop_the_loop(image: Image, params: WorkParams, ctx: StepContext) -> Detections:
    """Stop the event loop for a while, as a bad step does."""
    account("start", ctx.job.image_id)
    time.sleep(params.seconds)  # noqa: ASYNC251 (that is the fault)
    account("end", ctx.job.image_id)
    return Detections.none()


@step("hold_the_gil")
def hold_the_gil(image: Image, params: WorkParams, ctx: StepContext) -> Detections:
    """Let no other thread of the process run for a while, as a bad extension does."""
    account("start", ctx.job.image_id)
    ctypes.PyDLL(None).usleep(int(params.seconds * 1e6))
    account("end", ctx.job.image_id)
    return Detections.none()


@step("keep")
async def keep(image: Image, ctx: StepContext) -> Uploads:
    """Write a file into the tenant's folder."""
    url = await ctx.store.write(f"originals/{ctx.job.image_id}-copy.jpg", b"copy", content_type="image/jpeg")
    return Uploads((Upload("original", url, 1, 1),))
