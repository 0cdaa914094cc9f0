"""What more workers bring: `python -m benchmarks.h_scale_out [--no-stock]`.

1, 2, 4 and 8 workers, each a process with a simulated device that takes 0.5 s for a full batch of four,
drain a backlog of mixed messages, as many for each: one look at a photo, two in a row, four tiles. They are
up and wait when it is published; what counts is the time to the last ack, by the broker's own account.

- *Efficiency*: the time of one worker over the time of N, with N times as many messages.
- *Fairness*: Jain's index of the seconds their devices were busy; 1 if all worked alike.
- *Hoarding*: the most messages that were leased at once, over the slots of all workers.
- *Killed*: one of eight is killed with -9 at a third of the backlog; the time until the last message it had
  claimed is acked, over lease + one batch. Its lease has to end, and whoever gets the message then has to see
  the dead worker's claim stand still for half a lease.

Beside it stock subscribers with default settings, which may hold a thousand messages each. The broker is
ours: Google's emulator keeps no account of leases. The question is about workers, not about this machine: if
all of it together used more than half of it, the rows say that they are host-bound, and have no target.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image

from benchmarks.h_programs import BATCH, FIXED, FULL_BATCH, PER_ITEM
from benchmarks.method import Figure, Row, Target, median, parser, progress, require_quiet, write
from benchmarks.surroundings import Backend, Program, TooSlow, metrics, wait_for
from consumer.local.pubsub import Deed, EmbeddedPubSub, Journal
from consumer.local.pubsub.messages import Message
from consumer.local.pubsub.topics import Draft
from tests.command import bare_environment
from tests.peers import free_port

SIZES, BLOCKS = (8, 4, 2, 1), 3
EACH = 60
"""Messages for each worker."""
SLOTS, LEASE = 8, 4
"""Of one worker; a short lease, so that the end of one can be waited for."""
LIMIT, STOCK_LIMIT = 150.0, 90.0
"""Seconds in which a backlog is drained, or the run fails."""
HOST_BOUND = 0.5
PROJECT, BUCKET, SIDE, TILE = "bench", "photos", 256, 128
RESULTS, DEAD_LETTERS = (f"projects/{PROJECT}/topics/{name}" for name in ("results", "dead-letters"))
_LOOK = 0.05

_LOOKS = {"type": "step", "name": "detection", "kwargs": {"model": "plants"}}
_TILED = {
    "type": "step",
    "name": "sahi_detection",
    "kwargs": {
        "model": "plants", "sahi_slice_height": TILE, "sahi_slice_width": TILE, "sahi_overlap_ratio": 0.0,
    },
}  # fmt: skip
MIX = [(1, [_LOOKS])] * 7 + [(2, [_LOOKS, _LOOKS])] * 2 + [((SIDE // TILE) ** 2, [_TILED])]
"""What ten messages ask for: how many items for the device, and in which steps."""
_MANIFEST = f"""models:
- name: plants
  kind: detection
  architecture: fcos_small
  weights: none.safetensors
  sha256: '{"0" * 64}'
  version: '1'
  classes: [plant]
  threshold: 0.5
  input_size: {SIDE}
  max_batch: {BATCH}
"""


class Account(Journal):
    """What became of one subscription's messages, and how many results were published."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.acked: dict[str, float] = {}
        self.leases = 0
        self.results = 0

    def note(self, deed: Deed, where: str, message: Message, ack_id: str) -> None:
        """Note what happened; on the broker's thread."""
        if deed is Deed.ACKED:
            self.acked[message.id] = time.monotonic()
        elif deed is Deed.LEASED:
            self.leases += 1
        elif deed is Deed.PUBLISHED and where == RESULTS:
            self.results += 1


@dataclass(frozen=True)
class Drained:
    """How a backlog went."""

    seconds: float
    busy: Sequence[float]
    """Seconds each worker's device was."""
    most_leased: int
    leases: int
    """How often a message was delivered to somebody."""
    results: int
    host: float
    """Share of the machine that all of it used."""
    after_kill: float = 0.0
    """Seconds from the kill to the last ack of what the killed one held."""


@dataclass
class Crew:
    """Workers that pull from one subscription."""

    name: str
    around: Site
    programs: list[Program] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    """Of their metrics; stock subscribers say what they do on standard output."""

    @property
    def subscription(self) -> str:
        """Full name of what they pull from."""
        return f"projects/{PROJECT}/subscriptions/{self.name}"

    def drain(self, limit: float = LIMIT, kill: Program | None = None) -> Drained:
        """Publish the backlog and wait until all of it is acked; kill one on the way."""
        count = EACH * len(self.programs)
        account, broker = self.around.account, self.around.broker
        account.forget()
        busy = [] if kill else self._busy()
        cpu, began, most, killed = self._cpu(), time.monotonic(), 0, 0.0
        held: list[str] = []
        drafts = [Draft(body, attributes) for body, attributes in messages(count)]
        broker.run(lambda inside: inside.publish(f"projects/{PROJECT}/topics/{self.name}", drafts))
        while len(account.acked) < count:
            most = max(most, broker.leased(self.subscription))
            if kill is not None and not killed and len(account.acked) > count // 3:
                kill.popen.kill()
                kill.popen.wait(10)
                killed, held = time.monotonic(), list(self.around.claimed_by(kill.popen.pid))
            for program in self.programs:
                if not (killed and program is kill):
                    program.check()
            if time.monotonic() - began > limit:
                raise TooSlow(f"{self.name}: {len(account.acked)} of {count} within {limit:g} s")
            time.sleep(_LOOK)
        seconds = max(account.acked.values()) - began
        return Drained(
            seconds,
            [] if kill else [now - before for now, before in zip(self._busy(), busy, strict=True)],
            most,
            account.leases,
            account.results,
            (self._cpu() - cpu) / seconds / (os.cpu_count() or 1),
            max((account.acked[one] - killed for one in held), default=0.0),
        )

    def _busy(self) -> list[float]:
        if self.urls:
            name = "mlworker_device_busy_seconds_total"
            return [metrics(f"{url}/metrics").get(name, 0.0) for url in self.urls]
        said = (program.log.read_text() for program in self.programs)
        return [sum(map(float, re.findall(r"^busy (.+)$", log, re.MULTILINE))) for log in said]

    def _cpu(self) -> float:
        return time.process_time() + sum(program.seconds() for program in self.programs)


@dataclass
class Site:
    """Broker, bucket and backend, all but the bucket in this process."""

    folder: Path
    account: Account
    broker: EmbeddedPubSub
    backend: Backend

    @contextmanager
    def workers(self, name: str, count: int) -> Iterator[Crew]:
        """Yield so many workers that are ready."""
        with ExitStack() as resources:
            crew = self._crew(name)
            for number in range(count):
                port = free_port()
                environment = bare_environment(
                    GOOGLE_CLOUD_PROJECT=PROJECT,
                    PUBSUB_EMULATOR_HOST=self.broker.address,
                    SUBSCRIPTION=name,
                    RESULTS_TOPIC="results",
                    DEAD_LETTER_TOPIC="dead-letters",
                    BUCKET=BUCKET,
                    BACKEND_URL=self.backend.url,
                    MODEL_PATH=str(self.folder),
                    DEVICES=f"simulated:fixed={FIXED}:per_item={PER_ITEM}",
                    SLOTS=str(SLOTS),
                    LEASE_SECONDS=str(LEASE),
                    DRAIN_MODE="abort",
                    PORT=str(port),
                    OMP_NUM_THREADS="1",
                )
                what = ("worker", str(self.folder / "store"))
                crew.programs.append(self._start(f"{name}-{number}", what, environment, resources))
                crew.urls.append(f"http://127.0.0.1:{port}")
            for program, url in zip(crew.programs, crew.urls, strict=True):
                wait_for(f"{url}/readyz", program)
            yield crew

    @contextmanager
    def stock(self, count: int) -> Iterator[Crew]:
        """Yield so many stock subscribers that have their streams."""
        with ExitStack() as resources:
            crew = self._crew("stock")
            environment = bare_environment(PUBSUB_EMULATOR_HOST=self.broker.address)
            for number in range(count):
                what = ("stock", crew.subscription)
                crew.programs.append(self._start(f"stock-{number}", what, environment, resources))
            for program in crew.programs:
                program.until_said("ready")
            end = time.monotonic() + 30
            while self.broker.waiting(crew.subscription) < count and time.monotonic() < end:
                time.sleep(_LOOK)
            yield crew

    def claimed_by(self, process_id: int) -> Iterator[str]:
        """Yield the messages that a worker has claimed, by their ids."""
        for file in Path(self.folder, "store", BUCKET).rglob("*.claim"):
            try:
                body = json.loads(file.read_text())
            except FileNotFoundError:
                continue  # it is written anew just now
            if body["state"] == "running" and body["owner"].split("/")[1] == str(process_id):
                yield body["message_id"]

    def _crew(self, name: str) -> Crew:
        topic = self.broker.create_topic(f"projects/{PROJECT}/topics/{name}")
        crew = Crew(name, self)
        self.broker.create_subscription(crew.subscription, topic, ack_deadline_seconds=10)
        return crew

    def _start(
        self, name: str, what: Sequence[str], environment: dict[str, str], resources: ExitStack
    ) -> Program:
        command = [sys.executable, "-m", "benchmarks.h_programs", *what]
        return resources.enter_context(Program.start(name, command, environment, self.folder))


@contextmanager
def site() -> Iterator[Site]:
    """Yield everything around the workers."""
    account = Account()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPubSub(journal=account) as broker,
        Backend() as backend,
    ):
        photo = Path(folder, "store", BUCKET, "acme/originals/tray.jpg")
        photo.parent.mkdir(parents=True)
        buffer = BytesIO()
        Image.fromarray(np.full((SIDE, SIDE, 3), 120, np.uint8)).save(buffer, "JPEG")
        photo.write_bytes(buffer.getvalue())
        Path(folder, "models.yaml").write_text(_MANIFEST)
        for topic in (RESULTS, DEAD_LETTERS):
            broker.create_topic(topic)
        yield Site(Path(folder), account, broker, backend)


def messages(count: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield the backlog: bodies, and for those who do not read them how many items each is."""
    for number in range(count):
        items, steps = MIX[number % len(MIX)]
        body = {
            "tenant_id": "acme",
            "session_id": str(uuid4()),
            "image_id": str(uuid4()),
            "image_url": f"gs://{BUCKET}/acme/originals/tray.jpg",
            "pipeline_definition": {"steps": steps},
        }
        yield json.dumps(body).encode(), {"items": str(items)}


def jain(shares: Sequence[float]) -> float:
    """Return Jain's index of fairness.

    >>> jain([1, 1, 1, 1]), jain([1, 0, 0, 0])
    (1.0, 0.25)
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def rows(found: dict[int, list[Drained]], killed: Drained, stock: Drained | None) -> list[Row]:
    """Make rows of what was measured."""
    most, alone = max(found), found[1][0].seconds
    host = max(drained.host for drained in found[most])
    bound = "host-bound: " if host > HOST_BOUND else ""
    ideal = EACH / len(MIX) * sum(items for items, _ in MIX) * FULL_BATCH / BATCH
    note = (
        f"all of it used {100 * host:.0f} % of the machine; {EACH} messages a worker, one takes {alone:.1f} s"
    )

    def row(what: str, values: Sequence[float], target: Target | None, peer: float | None = None) -> Row:
        peers = {} if peer is None else {"stock subscribers": peer}
        return Row("h", bound + what, median(values), None if bound else target, peers, note=note)

    told = [
        row(f"efficiency of {count} workers", [alone / one.seconds for one in found[count]],
            Target(least=0.9), ideal / stock.seconds if stock and count == most else None)
        for count in sorted(found) if count > 1
    ]  # fmt: skip
    eight = found[most]
    told += [
        row(f"fairness among {most} (Jain)", [jain(one.busy) for one in eight], Target(least=0.95),
            jain(stock.busy) if stock else None),
        row(f"most messages leased at once ÷ slots of {most} workers",
            [one.most_leased / (most * SLOTS) for one in eight], Target(most=1.0),
            stock.most_leased / (most * SLOTS) if stock else None),
        row(f"deliveries a message, {most} workers", [one.leases / (most * EACH) for one in eight], None,
            stock.leases / (most * EACH) if stock else None),
        row("results over one a message",
            [one.results - count * EACH for count, some in found.items() for one in some], Target(most=0)),
        row(f"one of {most} killed: until its messages were done ÷ (lease + one batch)",
            [killed.after_kill / (LEASE + FULL_BATCH)], Target(most=1.0)),
        row(f"one of {most} killed: results over one a message", [killed.results - most * EACH], None),
        Row("h", f"share of the machine used with {most} workers", Figure(host, host, host)),
    ]  # fmt: skip
    return told


def main() -> None:
    """Drain, kill, compare, and write what was found."""
    words = parser(__doc__)
    words.add_argument("--no-stock", action="store_true", help="without the stock subscribers beside it")
    options = words.parse_args()
    require_quiet(busy=options.busy)
    found: dict[int, list[Drained]] = {}
    with site() as around:
        for count in SIZES:
            with around.workers(f"of-{count}", count) as crew:
                times = (options.blocks or BLOCKS) if count == max(SIZES) else 1
                for turn in range(times):
                    progress(f"{count} workers, {turn + 1} of {times}")
                    found.setdefault(count, []).append(crew.drain())
                if count == max(SIZES):
                    progress("one is killed")
                    killed = crew.drain(kill=crew.programs[0])
        stock = None
        if not options.no_stock:
            progress("stock subscribers")
            with around.stock(max(SIZES)) as crew:
                try:
                    stock = crew.drain(STOCK_LIMIT)
                except TooSlow as slow:
                    print(f"stock subscribers: {slow}", file=sys.stderr)
    progress("")
    write("h-scale-out", rows(found, killed, stock), options)


if __name__ == "__main__":
    main()
