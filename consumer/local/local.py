"""`mlworker local`: a whole worker kept running on this machine, to develop a backend against."""

from __future__ import annotations

import asyncio
import io
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from PIL import Image
from rich.console import Console

from consumer.local.embedded import Emulators
from consumer.local.examples import SAMPLE, TENANT, examples
from consumer.local.inbox import Inbox
from consumer.local.photos import CONTENT_TYPES
from consumer.local.scenes import demo_photo
from consumer.local.stack import LocalStack
from consumer.local.tasks import ended
from consumer.ops.logging import configure_logging
from pipeline_steps.errors import ModelUnavailable

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


async def run_local(
    *,
    port: int,
    inbox: Path,
    backend_port: int,
    model_path: str = "demo",
    emulators: Emulators | None = None,
) -> int:
    """Run the stack until Ctrl-C.

    Args:
        port: of the embedded Pub/Sub server.
        inbox: photos dropped under `{tenant}/originals/` in it are processed; made if missing.
        backend_port: of the small backend and its page.
        model_path: folder of `models.yaml`; `demo` is the packaged one.
        emulators: servers to use instead of the embedded ones.

    Returns:
        0 when it was told to end, 130 when by Ctrl-C; 1 if a model does not load; 2 if a port is taken, or
        the inbox is no folder.
    """
    configure_logging("INFO", "console")
    errors, screen = Console(stderr=True), Console()
    told_to_end = asyncio.Event()
    code = DONE

    def end(number: signal.Signals) -> None:
        nonlocal code
        code = INTERRUPTED if number is signal.SIGINT else DONE
        told_to_end.set()

    try:
        async with local_stack(port, inbox, backend_port, model_path, emulators) as stack:
            screen.print(examples(stack, inbox), markup=False, highlight=False, soft_wrap=True)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, end, number)
            await stack.run_until(told_to_end)
            for number in (signal.SIGINT, signal.SIGTERM):  # from here on a second Ctrl-C ends it at once
                asyncio.get_running_loop().remove_signal_handler(number)
    except ModelUnavailable as error:
        errors.print(
            f"a model does not load: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        return FAILED
    except OSError as error:
        errors.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return BAD_INPUT
    return code


@asynccontextmanager
async def local_stack(
    port: int,
    inbox: Path,
    backend_port: int,
    model_path: str = "demo",
    emulators: Emulators | None = None,
) -> AsyncIterator[LocalStack]:
    """Run the stack and watch the inbox while the context lasts; see `run_local`."""
    await asyncio.to_thread((inbox / TENANT / "originals").mkdir, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mlworker-local-") as folder:
        async with LocalStack(
            Path(folder),
            model_path=model_path,
            pubsub_port=port,
            backend_port=backend_port,
            emulators=emulators,
            collects=False,
            note=f"Drop photos into {inbox}/{{tenant}}/originals/ or publish requests: results appear here.",
        ) as stack:
            await stack.upload(SAMPLE, await asyncio.to_thread(_sample))

            async def upload(name: str, data: bytes) -> None:
                kind = CONTENT_TYPES.get(Path(name).suffix.lower(), "application/octet-stream")
                await stack.upload(name, data, content_type=kind)

            watching = asyncio.create_task(Inbox(inbox, upload).watch(), name="inbox")
            try:
                yield stack
            finally:
                await ended(watching)


def _sample() -> bytes:
    file = io.BytesIO()
    Image.fromarray(demo_photo(2025).pixels).save(file, "JPEG", quality=92)
    return file.getvalue()
