"""`mlworker demo`: photos in, counted plants and annotated pictures out, on this machine alone."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.local.deliveries import Deliveries, Trigger, send
from consumer.local.demo_report import (
    Summary,
    as_json,
    print_table,
    save,
    save_metrics,
    summary_of,
    write_report,
)
from consumer.local.embedded import Emulators
from consumer.local.gallery import Shown
from consumer.local.photos import DemoPhoto, NoPhotos, generated_photo, own_photo, photo_files
from consumer.local.pipelines import fullest_pipeline, route_of
from consumer.local.run_log import logs_in
from consumer.local.stack import BUCKET, LocalStack
from consumer.local.tasks import ended
from consumer.models.opening import read_manifest
from contracts.pipeline import PipelineDefinition
from pipeline_steps.errors import ModelUnavailable

log = structlog.get_logger()

DONE, FAILED, BAD_INPUT = 0, 1, 2

TENANTS = {
    "vivero-andes": ("lavanda", "romero", "salvia"),
    "green-valley": ("petunia", "begonia"),
    "los-alerces": ("alerce", "coihue"),
}
"""Whose photos they are, and what each has planted, as a message tells."""
PLANTED = ("lavanda", "petunia")
"""What the route says was planted, where a photo comes without a message."""
TRIGGERS: Sequence[Trigger] = ("message", "notification")

_PATIENCE = 180.0
"""Seconds without any news after which the rest is given up."""
_LOOK = 0.1
_THREADS = 2

MakePhoto = Callable[[], DemoPhoto]


async def run_demo(
    *,
    images: Path | None,
    out: Path,
    count: int,
    seed: int,
    json_output: bool,
    model_path: str = "demo",
    size: tuple[int, int] = (960, 1280),
    emulators: Emulators | None = None,
) -> int:
    """Run the main job, half of the photos started by messages, half by landing in the bucket.

    Args:
        images: folder of the user's photos, all of which are taken; None to generate some.
        out: where pictures, results, `summary.json`, `truth.json`, `index.html`, `metrics.txt` and
            `worker.log` go.
        count: how many photos are generated.
        seed: of the generated photos.
        json_output: print the summary as JSON on stdout, and nothing else.
        model_path: folder of `models.yaml`; `demo` is the packaged one.
        size: height and width of generated photos.
        emulators: servers to use instead of the embedded ones.

    Returns:
        0 if every message was acked with a result and a callback, and none was dead-lettered; 1 if not;
        2 if there is nothing to run on.
    """
    errors = Console(stderr=True)
    try:
        makers = _photos(images, out, count, seed, size)
        with logs_in(out / "worker.log"), _bars(errors, len(makers), quiet=json_output) as bars:
            summary, shown = await _run(makers, out, bars, model_path, emulators)
    except (NoPhotos, ModelUnavailable, OSError) as error:
        errors.print(str(error), style="red", highlight=False, markup=False, soft_wrap=True)
        return BAD_INPUT if isinstance(error, NoPhotos) else FAILED
    if json_output:
        sys.stdout.write(as_json(summary).decode())
    else:
        print_table(Console(), shown, summary, out)
    return DONE if summary.is_complete else FAILED


async def _run(
    makers: Sequence[MakePhoto], out: Path, bars: Bars, model_path: str, emulators: Emulators | None
) -> tuple[Summary, list[Shown]]:
    """Process the photos, and write everything that came of them into `out`."""
    definition = fullest_pipeline((await read_manifest(model_path)).specs(), species=True, keep_original=True)
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="mlworker-demo-")))
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="photos")
        resources.callback(threads.shutdown, cancel_futures=True)
        # Drawn while the models warm up.
        loop = asyncio.get_running_loop()
        photos = [loop.run_in_executor(threads, make) for make in makers]
        for photo in photos:
            photo.add_done_callback(bars.photo_ready)
        route = route_of(BUCKET, definition, {"species": list(PLANTED)})
        async with LocalStack(folder, model_path=model_path, routes=[route], emulators=emulators) as stack:
            started = time.monotonic()
            deliveries = Deliveries(stack)
            sending = asyncio.create_task(_send_all(photos, deliveries, definition))
            await _watch(deliveries, sending, bars)
            seconds = time.monotonic() - started
            if deliveries.finished == len(makers):
                await stack.settled()
            shown = [await save(stack, sent, out) for sent in deliveries.sent]
            await save_metrics(stack, out)
    summary = summary_of(deliveries.sent, shown, seconds)
    await asyncio.to_thread(write_report, out, deliveries.sent, shown, summary)
    return summary, shown


async def _send_all(
    photos: Sequence[asyncio.Future[DemoPhoto]], deliveries: Deliveries, definition: PipelineDefinition
) -> None:
    sessions = {tenant_id: uuid4() for tenant_id in TENANTS}
    for index, photo in enumerate(photos):
        tenant_id = list(TENANTS)[index % len(TENANTS)]
        sent = await send(
            deliveries.stack,
            await photo,
            TRIGGERS[index % len(TRIGGERS)],
            tenant_id,
            sessions[tenant_id],
            definition,
            TENANTS[tenant_id],
        )
        deliveries.sent.append(sent)


async def _watch(deliveries: Deliveries, sending: asyncio.Task[None], bars: Bars) -> None:
    """Wait until all photos are finished, or nothing has happened for a long while."""
    finished, last_news = 0, time.monotonic()
    while not (sending.done() and finished == len(deliveries.sent)):
        await asyncio.sleep(_LOOK)
        deliveries.stack.check()
        await deliveries.look()
        if deliveries.finished > finished:
            finished, last_news = deliveries.finished, time.monotonic()
            bars.finished(finished)
        elif sending.done() and sending.exception() is not None:
            break
        elif time.monotonic() - last_news > _PATIENCE:
            log.error("gave_up_waiting", finished=finished, sent=len(deliveries.sent), seconds=_PATIENCE)
            break
    await ended(sending)


def _photos(images: Path | None, out: Path, count: int, seed: int, size: tuple[int, int]) -> list[MakePhoto]:
    out.mkdir(parents=True, exist_ok=True)
    if images is not None:
        return [partial(own_photo, path, index) for index, path in enumerate(photo_files(images))]
    return [partial(generated_photo, seed, index, out / "photos", *size) for index in range(count)]


class Bars:
    """The progress bars of a demo."""

    def __init__(self, progress: Progress, photos: int) -> None:
        self._progress = progress
        self._ready = progress.add_task("photos ready", total=photos)
        self._finished = progress.add_task("models warm up", total=photos)

    def photo_ready(self, _: object) -> None:
        """Count a photo that can be sent."""
        self._progress.advance(self._ready)

    def finished(self, photos: int) -> None:
        """Tell how many photos are through."""
        self._progress.update(self._finished, completed=photos, description="photos processed")


@contextmanager
def _bars(console: Console, photos: int, *, quiet: bool) -> Iterator[Bars]:
    columns = (TextColumn("{task.description:<17}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:
        yield Bars(progress, photos)
