"""What a worker works between, for benchmarks: a broker, a bucket and a backend; and who works there.

All of them are on core 1, and speak the protocols of the real ones: Pub/Sub's gRPC, Cloud Storage's JSON API
(fake-gcs-server), HTTP. The backend says yes to everything, so that it costs as little as another machine's.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from benchmarks.method import on_core
from consumer.local.pubsub import Deed, EmbeddedPubSub, Journal
from consumer.local.pubsub.messages import Message
from consumer.local.pubsub.topics import Draft
from consumer.ops.figures import Figures, figures_in
from tests.command import bare_environment
from tests.peers import fake_gcs_server, make_gcs_bucket

DEVICE_CORE, OTHER_CORE = 0, 1
PROJECT, BUCKET = "bench", "photos"
RESULTS, DEAD_LETTERS = (f"projects/{PROJECT}/topics/{name}" for name in ("results", "dead-letters"))
START_LIMIT, ROUND_LIMIT = 120.0, 90.0
"""Seconds to get ready, and to do a round: who needs longer fails, and the run goes on without."""
END_LIMIT = 1.0
"""Seconds to end: nothing is left to be done properly."""
_LOOK = 0.01


class TooSlow(RuntimeError):
    """A program did not do what it was to do in time, or ended."""


class Acks(Journal):
    """When each subscription's messages were acked, and nothing else: rounds are many messages long."""

    def __init__(self) -> None:
        super().__init__()
        self.at: defaultdict[str, list[float]] = defaultdict(list)
        self.published: dict[str, Message] = {}
        """The last message of each topic."""

    def note(self, deed: Deed, where: str, message: Message, ack_id: str) -> None:
        """Note an ack."""
        if deed is Deed.ACKED:
            self.at[where].append(time.perf_counter())
        elif deed is Deed.PUBLISHED:
            self.published[where] = message


class Surroundings:
    """Broker, bucket and backend, while the context lasts; this process is on their core from then on."""

    def __init__(self) -> None:
        self.acks = Acks()
        self.broker = EmbeddedPubSub(journal=self.acks)
        self.backend = Backend()
        self.bucket_url = ""
        self._uploaded: dict[str, bytes] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        on_core(OTHER_CORE)
        with ExitStack() as opening:
            opening.enter_context(self.broker)
            self.bucket_url = opening.enter_context(fake_gcs_server())
            make_gcs_bucket(self.bucket_url, BUCKET)
            opening.enter_context(self.backend)
            for topic in (RESULTS, DEAD_LETTERS):
                self.broker.create_topic(topic)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def upload(self, name: str, data: bytes) -> str:
        """Put a photo into the bucket and return its url."""
        self._uploaded[name] = data
        where = (
            f"{self.bucket_url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quote(name, safe='')}"
        )
        request = urllib.request.Request(where, data, {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=10):
            return f"gs://{BUCKET}/{name}"

    def only_photos(self) -> None:
        """Take all but the photos from the bucket: the server looks through its objects at each request.

        After two thousand messages that is most of their core's time, and the later a round the slower.
        """
        request = urllib.request.Request(f"{self.bucket_url}/_internal/delete_all", b"", method="POST")
        with urllib.request.urlopen(request, timeout=10):
            make_gcs_bucket(self.bucket_url, BUCKET)
        for name, data in self._uploaded.items():
            self.upload(name, data)

    def subscribe(self, name: str) -> Line:
        """Make a topic and a subscription of this name."""
        topic = self.broker.create_topic(f"projects/{PROJECT}/topics/{name}")
        subscription = f"projects/{PROJECT}/subscriptions/{name}"
        self.broker.create_subscription(subscription, topic, ack_deadline_seconds=60)
        return Line(self, topic, subscription)

    def environment(self, **more: str) -> dict[str, str]:
        """What programs are told of where everything is."""
        return bare_environment(
            GOOGLE_CLOUD_PROJECT=PROJECT,
            PUBSUB_EMULATOR_HOST=self.broker.address,
            STORAGE_EMULATOR_HOST=self.bucket_url,
            BACKEND_URL=self.backend.url,
            BUCKET=BUCKET,
            OMP_NUM_THREADS="1",
            **more,
        )


class Backend:
    """Answers every request with `{}`, on a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="backend", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = self._loop.create_server(_Answers, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_LIMIT)


class _Answers(asyncio.Protocol):
    """One connection: as much of HTTP as the clients here use."""

    _LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._got = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            length = self._LENGTH.search(self._got, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._got) < whole:
                return
            self._got = self._got[whole:]
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
            )


# ------------------------------------------------------------------------------------ who works in between


@dataclass
class Line:
    """A topic, a subscription, and how fast its messages are acked."""

    around: Surroundings
    topic: str
    subscription: str

    @property
    def acked(self) -> list[float]:
        """When messages were acked."""
        return self.around.acks.at[self.subscription]

    def send(self, messages: Sequence[bytes], attributes: Mapping[str, str] | None = None) -> None:
        """Publish the messages at once."""
        drafts = [Draft(data, attributes or {}) for data in messages]
        self.around.broker.run(lambda broker: broker.publish(self.topic, drafts))

    def until_acked(self, count: int, still: Callable[[], None], limit: float = ROUND_LIMIT) -> list[float]:
        """Wait for so many acks from now on, and return when they came."""
        end = time.monotonic() + limit
        while len(self.acked) < count:
            still()
            if time.monotonic() > end:
                raise TooSlow(f"{len(self.acked)} of {count} messages were acked within {limit:g} s")
            time.sleep(_LOOK)
        return self.acked[:count]


def pace(at: Sequence[float], margin: int) -> float:
    """Return the messages acked a second once it was going.

    Acks come in bursts as batches end; so it is the slope of a line through all of them but a margin of
    messages at both ends, when the pipeline fills and empties.
    """
    margin = min(margin, (len(at) - 3) // 2)
    steady = at[margin : len(at) - margin]
    return statistics.linear_regression(steady, range(len(steady))).slope


@dataclass
class Program:
    """A program that works while it is asked to and is frozen otherwise, to disturb nobody's turn."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    cpu: list[float] = field(default_factory=list)
    """Seconds of processor time of each round, with its children."""

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> Program:
        """Start it in a group of its own, so that what it starts is frozen and ended with it."""
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(name, popen, log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(END_LIMIT)
        self._signal(signal.SIGKILL)  # whatever it left behind, too
        self.popen.wait()

    def check(self) -> None:
        """Return if it still runs.

        Raises:
            TooSlow: it ended; with the end of its log.
        """
        if self.popen.poll() is not None:
            raise TooSlow(f"{self.name} ended with {self.popen.returncode}: {self.said()}")

    def until_said(self, text: str, limit: float = START_LIMIT) -> None:
        """Wait until its output has this text.

        Raises:
            TooSlow: it does not come, or the program ended.
        """
        end = time.monotonic() + limit
        while text not in self.log.read_text(errors="replace"):
            self.check()
            if time.monotonic() > end:
                raise TooSlow(f"{self.name} did not say {text!r} within {limit:g} s: {self.said()}")
            time.sleep(0.05)

    def said(self, lines: int = 3) -> str:
        """Return the last lines it wrote."""
        return " | ".join(self.log.read_text(errors="replace").split("\n")[-lines - 1 :])

    def freeze(self) -> None:
        """Stop its time."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def seconds(self) -> float:
        """Return the processor time it has used, and those it started."""
        ticks = 0
        for process in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = process.read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it ended just now
            if int(fields[2]) == self.popen.pid:  # its process group
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.popen.pid, number)
        except ProcessLookupError:
            return  # all of it has ended


def wait_for(url: str, program: Program, limit: float = START_LIMIT) -> None:
    """Wait until the url answers with 200.

    Raises:
        TooSlow: it does not, or the program ended.
    """
    end = time.monotonic() + limit
    while True:
        program.check()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise TooSlow(f"{program.name} is not ready after {limit:g} s: {program.said()}") from error
        time.sleep(0.1)


def metrics(url: str) -> dict[str, float]:
    """Return the sums over labels of a worker's metrics, by name."""
    found: defaultdict[str, float] = defaultdict(float)
    for line in _answer(url).splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            found[series.partition("{")[0]] += float(value)
    return dict(found)


def figures(url: str) -> Figures:
    """Return what a worker has done so far, by its metrics."""
    return figures_in(_answer(url))


def _answer(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: str = answer.read().decode()
    return found


def as_json(**fields: object) -> bytes:
    """Return a message's body."""
    return json.dumps(fields).encode()
