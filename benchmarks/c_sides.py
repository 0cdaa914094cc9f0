"""What `c_overhead.py` compares, each in a process of its own, told what to do by lines of JSON.

    {"subscription": ..., "count": 5000}                take so many messages, as fast as they come
    {"subscription": ..., "count": 500, "timed": true}  the same; the messages say when they were published

The answer is a line of JSON too: seconds and processor time for all of them and, if timed, the milliseconds
from publishing to the moment each was handed to whoever works on it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.method import on_core
from pipeline_steps.artifacts import Detections
from pipeline_steps.context import StepContext
from pipeline_steps.registry import StepRegistry, step

PROJECT, BUCKET = "bench", "photos"
SLOTS, FULL_SLOTS = 400, 16
"""As many messages as four unary pulls of a hundred have in hand."""
LIMIT = 60.0
"""Seconds in which a round is over, or fails."""


@dataclass
class Round:
    """What one round has seen so far."""

    left: int
    timed: bool
    milliseconds: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)
    over: float = 0.0

    def handed(self, data: bytes) -> None:
        """Note that work on a message may begin."""
        if self.timed:
            self.milliseconds.append(1000 * (time.perf_counter() - float(data)))

    def done(self, count: int = 1) -> bool:
        """Note that so many are done; tell whether that was the last."""
        self.left -= count
        if self.left > 0 or self.over:
            return False
        self.over, self.cpu = time.perf_counter(), time.process_time() - self.cpu
        return True


@dataclass(frozen=True)
class Took:
    """What a round took."""

    seconds: float
    cpu: float
    milliseconds: list[float]


class TooSlow(RuntimeError):
    """A round was not over in time."""


def worker(subscription: str, address: str, going: Round) -> None:
    """Our worker with a handler that does nothing; a message is done when its ack is confirmed."""
    from consumer.broker import Delivery
    from consumer.broker.leases import Lease, LeaseKeeper
    from consumer.broker.pubsub import Endpoint
    from consumer.broker.subscriber import PubSubSubscriber
    from consumer.outcomes import Outcome, Settle
    from consumer.progress import Progress
    from consumer.turns import Turns
    from consumer.worker import Worker

    class Nothing:
        async def handle(self, delivery: Delivery, lease: Lease, progress: Progress) -> Outcome:
            going.handed(delivery.data)
            return Outcome(Settle.ACK, "nothing")

    async def run() -> None:
        subscriber = PubSubSubscriber(subscription, Endpoint(emulator=address))
        working = Worker(subscriber, LeaseKeeper(subscriber.extend), Nothing(), Turns(SLOTS), 5.0)

        def ended(*_: object) -> None:
            if going.done():
                working.stop()

        working.on_outcome = ended
        try:
            await asyncio.wait_for(working.run(), LIMIT)
        finally:
            await subscriber.close()

    asyncio.run(run())


def streaming(subscription: str, address: str, going: Round) -> None:
    """Google's client as its documentation has it; a message is done when its ack is asked for."""
    _stream(subscription, address, going, None)


def inline(subscription: str, address: str, going: Round) -> None:
    """The same, with callbacks that the receiving thread calls at once: quickest where they do nothing."""
    from google.cloud.pubsub_v1.subscriber.scheduler import Scheduler

    class Inline(Scheduler):  # type: ignore[misc]  # it ships no annotations
        def __init__(self) -> None:
            self._queue: queue.Queue[Any] = queue.Queue()

        @property
        def queue(self) -> Any:
            return self._queue

        def schedule(self, callback: Callable[..., object], *args: Any, **kwargs: Any) -> None:
            callback(*args, **kwargs)

        def shutdown(self, await_msg_callbacks: bool = False) -> list[Any]:
            del await_msg_callbacks
            return []

    _stream(subscription, address, going, Inline())


def _stream(subscription: str, address: str, going: Round, scheduler: Any) -> None:
    del address  # the client finds it in the environment
    from google.cloud import pubsub_v1

    over, lock = threading.Event(), threading.Lock()

    def callback(message: pubsub_v1.subscriber.message.Message) -> None:
        going.handed(message.data)
        message.ack()
        with lock:
            if going.done():
                over.set()

    with pubsub_v1.SubscriberClient() as client:
        pulling = client.subscribe(subscription, callback, scheduler=scheduler)
        is_over = over.wait(LIMIT)
        pulling.cancel()
        pulling.result(timeout=LIMIT)
    if not is_over:
        raise TooSlow


def unary(subscription: str, address: str, going: Round) -> None:
    """Unary pulls of a hundred and their acks, in four threads, with Google's client; no leases are kept."""
    del address
    from google.api_core.exceptions import DeadlineExceeded
    from google.cloud import pubsub_v1

    lock, end = threading.Lock(), time.monotonic() + LIMIT

    def take(client: pubsub_v1.SubscriberClient) -> None:
        while going.left > 0 and time.monotonic() < end:
            try:
                got = client.pull(
                    subscription=subscription, max_messages=100, timeout=2, retry=None
                ).received_messages
            except DeadlineExceeded:
                continue  # the others took the last ones
            if got:
                ids = [message.ack_id for message in got]
                client.acknowledge(subscription=subscription, ack_ids=ids, timeout=LIMIT)
            with lock:
                going.done(len(got))

    with pubsub_v1.SubscriberClient() as client, ThreadPoolExecutor(4) as threads:
        for taking in [threads.submit(take, client) for _ in range(4)]:
            taking.result()


STEPS = StepRegistry()


@step("nothing", registry=STEPS)
async def nothing(ctx: StepContext) -> Detections:
    """Find nothing."""
    del ctx
    return Detections.none()


class Full:
    """The whole worker: everything but pictures and models is there.

    Its one step does nothing. The bucket is a folder, or behind a url that speaks Cloud Storage's JSON API.
    """

    def __init__(self, backend_url: str, bucket_url: str = "") -> None:
        from consumer.ops.logging import configure_logging

        configure_logging("INFO", "json")
        self._backend_url, self._bucket_url = backend_url, bucket_url
        self._folder = tempfile.TemporaryDirectory()

    def __call__(self, subscription: str, address: str, going: Round) -> None:
        """Take messages; one is done when it is recorded, published, called back, marked and acked."""
        asyncio.run(self._run(subscription, address, going))

    async def _run(self, subscription: str, address: str, going: Round) -> None:
        from consumer.app import open_worker
        from consumer.broker import Delivery
        from consumer.outcomes import Outcome
        from consumer.settings import Settings
        from consumer.storage.filesystem import FilesystemStore
        from consumer.storage.gcs import GcsStore

        folder = Path(self._folder.name)
        (folder / "models.yaml").write_text("models: []\n")
        (folder / "store" / BUCKET).mkdir(parents=True, exist_ok=True)
        settings = Settings(
            google_cloud_project=PROJECT,
            subscription=subscription,
            results_topic="results",
            dead_letter_topic="dead-letters",
            bucket=BUCKET,
            pubsub_emulator_host=address,
            backend_url=self._backend_url,
            model_path=self._folder.name,
            devices="simulated",
            slots=FULL_SLOTS,
            port=0,
        )
        troubles = []

        def ended(_: Delivery, outcome: Outcome, __: float) -> None:
            if outcome.reason != "succeeded":
                troubles.append(outcome.reason)
            if going.done():
                running.worker.stop()

        store = GcsStore(PROJECT, self._bucket_url) if self._bucket_url else FilesystemStore(folder / "store")
        opening = open_worker(
            settings, store=store, steps=STEPS, is_local=True, host="127.0.0.1", on_outcome=ended
        )
        async with opening as running:
            going.began, going.cpu = time.perf_counter(), time.process_time()
            await asyncio.wait_for(running.worker.run(), LIMIT)
        if troubles:
            raise RuntimeError(f"{len(troubles)} messages did not succeed: {sorted(set(troubles))}")


SIDES: dict[str, Callable[[str, str, Round], None]] = {
    "worker": worker,
    "streaming": streaming,
    "inline": inline,
    "unary": unary,
}


def main(side: str, address: str, *peers: str) -> None:
    """Do the rounds that standard input asks for."""
    on_core(0)
    take = SIDES[side] if side in SIDES else Full(*peers)
    is_first = True
    for line in sys.stdin:
        asked = json.loads(line)
        going = Round(asked["count"], asked.get("timed", False))
        take(asked["subscription"], address, going)
        if not going.over:
            raise TooSlow(f"{side}: {going.left} of {asked['count']} messages were left after {LIMIT:g} s")
        print(json.dumps(asdict(Took(going.over - going.began, going.cpu, going.milliseconds))), flush=True)
        if is_first:  # as after warming up: what is there by now stays
            gc.collect()
            gc.freeze()
            is_first = False


if __name__ == "__main__":
    main(*sys.argv[1:])
