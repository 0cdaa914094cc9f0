"""What a demo leaves behind: pictures, results, summary, truth, a gallery, and a table on the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import orjson
import structlog
from rich.console import Console
from rich.table import Table

from consumer.local.deliveries import Sent, Trigger
from consumer.local.gallery import Shown, gallery_page
from consumer.local.stack import HOST, LocalStack
from contracts.request import split_object_url

log = structlog.get_logger()

_PICTURES = {"processed": "annotated/{stem}.jpg", "processed_thumbnail": "annotated/{stem}-small.jpg"}
"""Which of the stored files are copied, and where to."""
_COLOURS = {"succeeded": "green", "partial": "yellow", "failed": "red", "unfinished": "red"}


async def save(stack: LocalStack, sent: Sent, out: Path) -> Shown:
    """Copy what came of a photo into `out`, and return what a gallery shows of it."""
    result, paths = sent.result, dict[str, str]()
    if result is not None:
        paths["result"] = f"results/{sent.photo.stem}.json"
        await asyncio.to_thread(_write, out / paths["result"], result.model_dump_json().encode())
        for artifact in result.artifacts:
            if artifact.kind in _PICTURES:
                paths[artifact.kind] = _PICTURES[artifact.kind].format(stem=sent.photo.stem)
                stored = await stack.store.read(*split_object_url(artifact.url))
                await asyncio.to_thread(_write, out / paths[artifact.kind], stored.data)
    return Shown(
        source=sent.photo.source,
        tenant_id=sent.tenant_id,
        trigger=sent.trigger,
        status=sent.status,
        reason=sent.reason,
        milliseconds=round(sent.milliseconds),
        expected=len(sent.photo.truth.plants) if sent.photo.truth else None,
        result=result,
        picture=paths.get("processed"),
        thumbnail=paths.get("processed_thumbnail"),
        result_file=paths.get("result"),
    )


async def save_metrics(stack: LocalStack, out: Path) -> None:
    """Write what the worker answers at `/metrics` into `out`; without an answer the log has a line."""
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = (await client.get(f"http://{HOST}:{stack.running.port}/metrics")).raise_for_status()
    except httpx.HTTPError as error:
        log.warning("no_metrics", reason=str(error))
    else:
        await asyncio.to_thread(_write, out / "metrics.txt", answer.content)


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """A photo's line of `summary.json`; paths are relative to it."""

    source: str
    tenant_id: str
    session_id: UUID | None
    image_id: UUID | None
    trigger: Trigger
    status: str
    count: int | None
    expected_count: int | None
    annotated: str | None
    result: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of `summary.json`."""

    messages: int
    acked: int
    results: int
    callbacks: int
    dead_lettered: int
    seconds: float
    images: tuple[ImageSummary, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every photo's message was acked with a result and a callback, and none given up."""
        counted = (self.acked, self.results, self.callbacks)
        return not self.dead_lettered and all(count == self.messages for count in counted)


def summary_of(sent: Sequence[Sent], shown: Sequence[Shown], seconds: float) -> Summary:
    """Sum up what became of the photos."""
    return Summary(
        messages=len(sent),
        acked=sum(one.is_acked for one in sent),
        results=sum(one.result is not None for one in sent),
        callbacks=sum(one.has_callback for one in sent),
        dead_lettered=sum(one.is_dead for one in sent),
        seconds=round(seconds, 2),
        images=tuple(
            ImageSummary(
                source=one.source,
                tenant_id=one.tenant_id,
                session_id=it.session_id,
                image_id=it.image_id,
                trigger=it.trigger,
                status=one.status,
                count=one.count,
                expected_count=one.expected,
                annotated=one.picture,
                result=one.result_file,
            )
            for it, one in zip(sent, shown, strict=True)
        ),
    )


def write_report(out: Path, sent: Sequence[Sent], shown: Sequence[Shown], summary: Summary) -> None:
    """Write `summary.json`, `truth.json` and `index.html`."""
    truth = {one.photo.source: one.photo.truth for one in sent if one.photo.truth}
    _write(out / "summary.json", as_json(summary))
    _write(out / "truth.json", as_json(truth))
    _write(out / "index.html", gallery_page(shown, summary.seconds).encode())


def print_table(console: Console, shown: Sequence[Shown], summary: Summary, out: Path) -> None:
    """Print a line per photo, and how it all went."""
    table = Table(box=None, pad_edge=False)
    table.add_column("photo", overflow="fold")
    table.add_column("status")
    for title in ("found", "expected", "ms"):
        table.add_column(title, justify="right")
    for one in shown:
        table.add_row(
            one.source,
            f"[{_COLOURS[one.status]}]{one.status}[/]",
            "" if one.count is None else str(one.count),
            "" if one.expected is None else str(one.expected),
            str(one.milliseconds),
        )
    console.print(table)
    for one in shown:
        if one.reason:
            console.print(
                f"{one.source}: {one.reason}", style="red", markup=False, highlight=False, soft_wrap=True
            )
    console.print(
        f"\n{summary.acked} of {summary.messages} messages acked, {summary.results} results, "
        f"{summary.callbacks} callbacks, {summary.dead_lettered} dead-lettered, "
        f"{summary.seconds:.1f} s\nGallery: {out / 'index.html'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def as_json(content: object) -> bytes:
    """Return JSON for people and programs."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
