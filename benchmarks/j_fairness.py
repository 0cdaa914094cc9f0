"""Does one tenant's work hold up another's? `python -m benchmarks.j_fairness [--devices cpu]`.

A worker with its default settings finds 100 photos of 48 megapixels of one tenant, each to be looked at in
300 tiles. Another tenant sends one photo of 0.5 megapixels with the same pipeline: first while nothing else
is there, then right behind the 100, then again and again while they are worked on. A figure is how long it
takes, from publishing to the ack, over how long it takes alone.

It is asked of two devices: a simulated one, which is busy without using the CPU, as a GPU is; and the CPU
itself with the packaged model, where the device, decoding and everything else share the cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import numpy as np

from benchmarks.e_tiles import photo
from benchmarks.method import Figure, Row, Target, median, parser, progress, ratio, require_quiet, write
from benchmarks.surroundings import (
    DEAD_LETTERS,
    RESULTS,
    Acks,
    Line,
    Program,
    Surroundings,
    TooSlow,
    as_json,
    metrics,
    wait_for,
)
from consumer.local.pubsub import Deed, EmbeddedPubSub
from consumer.local.pubsub.messages import Message
from pipeline_steps.image.encode import encode_jpeg
from tests.command import COMMAND
from tests.peers import free_port

MOST = 3.0
BACKLOG = 100
BLOCKS = 7
LIMIT = 120.0
PAUSE = 1.0
"""Between two small photos: the backlog goes on meanwhile."""
DEVICES = {
    "simulated": "simulated:fixed=0.01:per_item=0.01",
    "cpu": "cpu",
}
STEPS = [{"type": "step", "name": "sahi_detection", "kwargs": {"model": "plants"}}]


class AcksByTenant(Acks):
    """When each tenant's messages were delivered and acked."""

    def __init__(self) -> None:
        super().__init__()
        self.of: defaultdict[str, list[float]] = defaultdict(list)
        self.delivered: defaultdict[str, list[float]] = defaultdict(list)

    def note(self, deed: Deed, where: str, message: Message, ack_id: str) -> None:
        """Note a delivery or an ack."""
        super().note(deed, where, message, ack_id)
        if deed in (Deed.ACKED, Deed.LEASED) and where.endswith("/work"):
            times = self.of if deed is Deed.ACKED else self.delivered
            times[json.loads(message.data)["tenant_id"]].append(time.perf_counter())


class Bench:
    """A worker's process, the backlog's photo, and the small one."""

    def __init__(self, device: str, folder: Path, closing: ExitStack) -> None:
        around = Surroundings()
        self.acks = around.acks = AcksByTenant()
        around.broker = EmbeddedPubSub(journal=around.acks)
        self.around = closing.enter_context(around)
        self.line: Line = around.subscribe("work")
        port = free_port()
        self.metrics = f"http://127.0.0.1:{port}/metrics"
        environment = around.environment(
            SUBSCRIPTION="work",
            RESULTS_TOPIC=RESULTS,
            DEAD_LETTER_TOPIC=DEAD_LETTERS,
            DEVICES=device,
            MODEL_PATH="demo",
            DRAIN_MODE="abort",
            PORT=str(port),
        )
        self.worker = closing.enter_context(
            Program.start("worker", [str(COMMAND), "run"], environment, folder)
        )
        large = photo(6000, 8000)
        small = np.ascontiguousarray(large[:600, :800])
        self.large = around.upload("large/originals/a.jpg", encode_jpeg(large, 88))
        self.small = around.upload("small/originals/a.jpg", encode_jpeg(small, 88))
        wait_for(f"http://127.0.0.1:{port}/readyz", self.worker)

    def publish(self, tenant: str, count: int = 1) -> None:
        """Publish messages of a tenant."""
        url = self.large if tenant == "large" else self.small
        self.line.send(
            [
                as_json(
                    tenant_id=tenant,
                    session_id=str(uuid4()),
                    image_id=str(uuid4()),
                    image_url=url,
                    pipeline_definition={"steps": STEPS},
                )
                for _ in range(count)
            ]
        )

    def small_one(self) -> float:
        """Send the small photo and return the seconds until it is acked."""
        done, began = len(self.acks.of["small"]), time.perf_counter()
        self.publish("small")
        self._until(lambda: len(self.acks.of["small"]) > done, "the small photo")
        return self.acks.of["small"][done] - began

    def backlog(self) -> tuple[float, float]:
        """Publish the backlog and the small photo behind it; return that one's seconds, also to delivery."""
        self.publish("large", BACKLOG)
        began = time.perf_counter()
        seconds = self.small_one()
        found = self.acks.delivered["small"][-1] - began
        self._until(lambda: metrics(self.metrics)["mlworker_device_queue_items"] > 8, "tiles to wait")
        return seconds, found

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            self.worker.check()
            if (letter := self.around.acks.published.get(DEAD_LETTERS)) is not None:
                raise RuntimeError(f"a message failed: {letter.attributes}; {self.worker.said()}")
            if time.monotonic() > end:
                raise TooSlow(f"waited {LIMIT:g} s for {what}: {self.worker.said()}")
            time.sleep(0.005)


def asked(name: str, options: argparse.Namespace) -> list[Row]:
    """Ask one kind of device."""
    blocks = options.blocks or BLOCKS
    with ExitStack() as closing:
        bench = Bench(DEVICES[name], Path(closing.enter_context(tempfile.TemporaryDirectory())), closing)
        bench.small_one()  # to warm up
        alone = []
        for block in range(blocks):
            progress(f"{name}: alone, {block + 1} of {blocks}")
            alone.append(bench.small_one())
        progress(f"{name}: behind {BACKLOG} others")
        behind, found = bench.backlog()
        among = []
        for block in range(blocks):
            progress(f"{name}: while they are worked on, {block + 1} of {blocks}")
            time.sleep(PAUSE)
            among.append(bench.small_one())
        seen = metrics(bench.metrics)
        done = len(bench.acks.of["large"])
    progress("")
    one = median(alone)
    note = (
        f"alone {one.value * 1000:.0f} ms, slowest among others {max(among) * 1000:.0f} ms; "
        f"{done} of the {BACKLOG} were done meanwhile, {seen.get('mlworker_messages_rested_total', 0):.0f} "
        "hand-backs"
    )
    right_behind = behind / one.value
    return [
        Row(
            "j",
            f"small photo while 100 of 48 MP are worked on ÷ alone, {name}",
            ratio(among, alone),
            Target(most=MOST),
            note=note,
        ),
        Row(
            "j",
            f"small photo published right behind 100 of 48 MP ÷ alone, {name}",
            Figure(right_behind, right_behind, right_behind),
            Target(most=MOST),
            note=f"once, delivered after {found * 1000:.0f} ms: then the backlog has been looked through",
        ),
    ]


def main() -> int:
    """Measure and write `j-fairness.json`."""
    words = parser(__doc__)
    words.add_argument("--devices", choices=sorted(DEVICES), help="only this one (default: both)")
    options = words.parse_args()
    require_quiet(busy=options.busy)
    names = [options.devices] if options.devices else list(DEVICES)
    write("j-fairness", [row for name in names for row in asked(name, options)], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
