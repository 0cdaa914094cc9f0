"""What the worker costs a message, beside the raw client: `python -m benchmarks.c_overhead`.

All programs (`c_sides.py`) take the same messages from Google's emulator by turns, each alone on core 0; the
emulator and whoever publishes are on core 1. Where the emulator is not installed our own broker takes its
place, and the notes say so. Every round has a topic and a subscription of its own: a pull or
a stream that is given up on the emulator goes on leasing for a while, and what it takes would be missing.

- *No-op*: our worker with a handler that does nothing (it pulls, keeps leases, acks, and hears that the ack
  is confirmed), Google's streaming client with a callback that asks for the ack, once with its own threads
  and once called by the thread that receives, and a loop of unary pulls of a hundred messages and their acks
  in four threads.
- *At 500 a second*: the time from publishing to the handler, and to the streaming client's callback.
- *Full path*: decode, parse, claim, look up, a pipeline of one step that does nothing, record, publish, call
  back over HTTP, mark, ack. The step does not look at the photo, so it is not fetched. The bucket is a
  folder; once more with Cloud Storage's client before fake-gcs-server.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import uuid4

import grpc
import pytest
from google.cloud import pubsub_v1
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.types import PubsubMessage

from benchmarks.c_sides import BUCKET, LIMIT, PROJECT, SIDES, Took
from benchmarks.method import (
    Figure,
    Measured,
    Row,
    Target,
    control_row,
    controlled,
    in_turns,
    is_settled,
    median,
    on_core,
    parser,
    progress,
    ratio,
    require_quiet,
    write,
)
from benchmarks.processes import line
from benchmarks.surroundings import Backend
from consumer.local.pubsub import EmbeddedPubSub
from tests.peers import fake_gcs_server, make_gcs_bucket, pubsub_emulator

COUNTS = {
    "worker": 12_000, "streaming": 4_000, "inline": 8_000, "unary": 24_000, "full": 400, "full, gcs": 200,
}  # fmt: skip
"""Messages of a round: about a second each, two for the slowest."""
FULL_PATH = Target(most=1.5)
"""Milliseconds. In production the bucket is Cloud Storage, so that what its client takes counts too."""
RATE, SECONDS = 500, 3
_FIRST = RATE // 2
"""Messages that the latencies leave out: the first ones meet a connection that is being made."""
_AT_ONCE = 1000
BLOCKS = 4


class Broker:
    """Google's emulator or what takes its place, with a new subscription for every round."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self._publisher = PublisherClient(transport=_insecure(address))
        self._subscriber = pubsub_v1.SubscriberClient()
        self._numbers = itertools.count()
        for name in ("results", "dead-letters"):
            self._publisher.create_topic(name=f"projects/{PROJECT}/topics/{name}")

    def line(self) -> tuple[str, str]:
        """Make a topic and a subscription, and return their names."""
        name = f"round-{next(self._numbers)}"
        topic, subscription = (f"projects/{PROJECT}/{kind}/{name}" for kind in ("topics", "subscriptions"))
        self._publisher.create_topic(name=topic, timeout=LIMIT)
        self._subscriber.create_subscription(
            name=subscription, topic=topic, ack_deadline_seconds=60, timeout=LIMIT
        )
        return topic, subscription

    def publish(self, topic: str, bodies: Sequence[bytes]) -> None:
        """Publish messages, many at once."""
        for start in range(0, len(bodies), _AT_ONCE):
            messages = [PubsubMessage(data=body) for body in bodies[start : start + _AT_ONCE]]
            self._publisher.publish(topic=topic, messages=messages, timeout=LIMIT)

    def publish_paced(self, topic: str) -> None:
        """Publish one message after the other, each telling when."""
        settings = pubsub_v1.types.BatchSettings(max_messages=1)
        publisher = pubsub_v1.PublisherClient(settings)
        began, sent = time.perf_counter(), []
        for number in range(RATE * SECONDS):
            time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            sent.append(publisher.publish(topic, b"%.6f" % time.perf_counter()))
        for future in sent:
            future.result(LIMIT)
        publisher.stop()

    def close(self, topic: str, subscription: str) -> None:
        """Remove what a round had."""
        self._subscriber.delete_subscription(subscription=subscription, timeout=LIMIT)
        self._publisher.delete_topic(topic=topic, timeout=LIMIT)


def _insecure(address: str) -> PublisherGrpcTransport:
    return PublisherGrpcTransport(channel=grpc.insecure_channel(address))


@dataclass
class Program:
    """One side, running."""

    name: str
    broker: Broker
    popen: subprocess.Popen[str]
    log: IO[str]
    bodies: Callable[[int], Sequence[bytes]]
    took: list[Took] = field(default_factory=list)

    def rate(self) -> float:
        """Let it take a backlog; return how many it took a second."""
        count = COUNTS[self.name]
        topic, subscription = self.broker.line()
        self.broker.publish(topic, self.bodies(count))
        self._ask(subscription, count)
        took = self._answer()
        self.broker.close(topic, subscription)
        return count / took.seconds

    def latencies(self) -> list[float]:
        """Let it take messages as they are published; return the milliseconds until it had each."""
        topic, subscription = self.broker.line()
        self._ask(subscription, RATE * SECONDS, timed=True)
        time.sleep(0.5)  # it connects
        self.broker.publish_paced(topic)
        took = self._answer()
        self.broker.close(topic, subscription)
        return took.milliseconds[_FIRST:]

    def cpu(self) -> Figure:
        """Return the processor time a message, in microseconds."""
        count = COUNTS[self.name]
        return median([1e6 * took.cpu / count for took in self.took[1:] if not took.milliseconds])

    def _ask(self, subscription: str, count: int, *, timed: bool = False) -> None:
        assert self.popen.stdin is not None
        print(
            json.dumps({"subscription": subscription, "count": count, "timed": timed}),
            file=self.popen.stdin,
            flush=True,
        )

    def _answer(self) -> Took:
        try:
            took = Took(**json.loads(line(self.popen, self.name, 2 * LIMIT)))
        except RuntimeError as error:
            self.log.seek(0)
            raise RuntimeError(f"{error}: {self.log.read()[-1000:]}") from error
        self.took.append(took)
        return took


def start(name: str, broker: Broker, resources: ExitStack, *peers: str) -> Program:
    """Start a side."""
    side = name if name in SIDES else "full"
    log = resources.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 (entered right here)
    popen = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.c_sides", side, broker.address, *peers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    resources.callback(popen.wait, LIMIT)
    resources.callback(popen.kill)
    return Program(name, broker, popen, log, _requests if side == "full" else _nothing)


def _nothing(count: int) -> list[bytes]:
    return [b"x" * 400] * count


def _requests(count: int) -> list[bytes]:
    return [
        json.dumps(
            {
                "tenant_id": "acme",
                "session_id": str(uuid4()),
                "image_id": str(uuid4()),
                "image_url": f"gs://{BUCKET}/acme/originals/tray.jpg",
                "pipeline_definition": {"steps": [{"type": "step", "name": "nothing"}]},
            }
        ).encode()
        for _ in range(count)
    ]


@contextmanager
def emulator() -> Iterator[Broker]:
    """Google's emulator, on this process's core; our own broker where it is not installed."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
        try:
            address, name = resources.enter_context(pubsub_emulator(Path(folder))), "Google's emulator"
        except pytest.skip.Exception as missing:
            address, name = resources.enter_context(EmbeddedPubSub()).address, f"our own broker ({missing})"
        os.environ["PUBSUB_EMULATOR_HOST"] = address
        yield Broker(address, name)


def no_op(broker: Broker, blocks: int, options: Namespace) -> list[Row]:
    """Compare the worker without work with the raw client."""
    with ExitStack() as resources:
        programs = {name: start(name, broker, resources) for name in SIDES}
        rates = in_turns(
            {name: program.rate for name, program in programs.items()},
            blocks,
            enough=lambda rates: is_settled(speeds(rates, broker)),
        )
        control = controlled(programs["worker"].rate, min(blocks, 3), busy=options.busy)
        waits: dict[str, list[list[float]]] = {"worker": [], "streaming": []}
        for block in range(max(1, blocks // 2)):
            for name in list(waits)[:: 1 if block % 2 == 0 else -1]:
                progress(f"latency, block {block + 1}: {name}")
                waits[name].append(programs[name].latencies())
        cpu = {name: program.cpu() for name, program in programs.items()}
    return [
        *speeds(rates, broker),
        Row("c", "no-op: processor time a message, µs", cpu["worker"], note=broker.name,
            peers={name: cpu[name].value for name in ("streaming", "inline", "unary")}),
        added("median of", 0.5, 1.0, waits, broker),
        added("99th percentile of", 0.99, 5.0, waits, broker),
        control_row("c", control),
    ]  # fmt: skip


def speeds(rates: Measured, broker: Broker) -> list[Row]:
    """Make the rows of our messages a second over each other's."""
    note = f"{broker.name}; messages a second: " + ", ".join(
        f"{name} {median(values).value:.0f}" for name, values in rates.items()
    )
    return [
        Row("c", f"no-op: messages a second ÷ {whose}", ratio(rates["worker"], rates[peer]),
            Target(least=least), note=note)
        for peer, whose, least in (
            ("streaming", "the streaming client's", 1.0),
            ("inline", "the streaming client's without threads of its own", 1.0),
            ("unary", "those of four threads of unary pulls of 100", 0.4),
        )
    ]  # fmt: skip


def added(what: str, share: float, most: float, waits: dict[str, list[list[float]]], broker: Broker) -> Row:
    """Return how much longer than for the streaming client's callback a message waits for our handler."""
    ours, theirs = ([_quantile(block, share) for block in waits[name]] for name in ("worker", "streaming"))
    return Row(
        "c",
        f"no-op at {RATE} a second: {what} ms from publishing to handler, minus the streaming client's",
        median([mine - other for mine, other in zip(ours, theirs, strict=True)]),
        Target(most=most),
        note=f"{broker.name}; milliseconds: ours {statistics.median(ours):.2f}, "
        f"theirs {statistics.median(theirs):.2f}",
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def full_path(broker: Broker, blocks: int) -> list[Row]:
    """Measure the processor time of a message's whole journey."""
    with ExitStack() as resources:
        backend = resources.enter_context(Backend())
        bucket = resources.enter_context(fake_gcs_server())
        make_gcs_bucket(bucket, BUCKET)
        sides = {
            "full": start("full", broker, resources, backend.url),
            "full, gcs": start("full, gcs", broker, resources, backend.url, bucket),
        }
        rates = in_turns({name: side.rate for name, side in sides.items()}, max(2, blocks // 2))
        cpu = {name: side.cpu() for name, side in sides.items()}
    return [
        Row("c", f"full path, {where}: processor time a message, ms", _milli(cpu[name]), target,
            note=f"{broker.name}; {median(rates[name]).value:.0f} messages a second")
        for name, where, target in (
            ("full", "bucket in a folder", FULL_PATH),
            ("full, gcs", "bucket over HTTP with Cloud Storage's client", FULL_PATH),
        )
    ]  # fmt: skip


def _milli(figure: Figure) -> Figure:
    return Figure(figure.value / 1000, figure.low / 1000, figure.high / 1000)


def main() -> None:
    """Compare, and write what was found."""
    options = parser(__doc__).parse_args()
    require_quiet(busy=options.busy)
    on_core(1)
    with emulator() as broker:
        blocks = options.blocks or BLOCKS
        rows = [*no_op(broker, blocks, options), *full_path(broker, blocks)]
    write("c-overhead", rows, options)


if __name__ == "__main__":
    main()
