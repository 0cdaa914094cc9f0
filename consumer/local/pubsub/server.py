"""The embedded Pub/Sub server: Google's protocol on a local port, the broker in memory behind it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.pubsub_v1 import types

from consumer.local.pubsub.bells import Bells
from consumer.local.pubsub.faults import Fault, Faults, Rpc
from consumer.local.pubsub.journal import Journal, no_note
from consumer.local.pubsub.messages import Message
from consumer.local.pubsub.services import Services
from consumer.local.pubsub.subscriptions import Subscription
from consumer.local.pubsub.topics import Broker, Draft

T = TypeVar("T")

_START_TIMEOUT = 30.0
_CALL_TIMEOUT = 30.0
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The clients ping every 30 s, also when they only wait: without these they would be cut off.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Else a second server could share the port, and each would get half of the clients.
    ("grpc.so_reuseport", 0),
]


class EmbeddedPubSub:
    """A Pub/Sub of one's own, for local mode and for tests.

    It runs on a thread and an event loop of its own, so that it serves blocking and asynchronous
    clients of the same process alike. What it holds survives `stop` and `start`, as the real service
    survives the loss of a connection.

    Args:
        clock: by which leases end and messages rest.
        journal: keeps account of every message.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, journal: Journal | None = None) -> None:
        self._clock = clock
        self._skipped = 0.0
        self._faults = Faults()
        self._bells = Bells()
        self._broker = Broker(self.now, changed=self._changed, note=journal.note if journal else no_note)
        self._services = Services(self._broker, self._bells, self._faults)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._sweep_at = float("inf")
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._changing = threading.Lock()
        """Held while it starts, stops, or does something for a caller of `run`: no call falls in between."""
        self.address = ""
        """`host:port`, once started."""

    def start(self, port: int = 0, host: str = "127.0.0.1") -> None:
        """Listen, on any free port if none is named.

        Raises:
            RuntimeError: the port is taken, or it is running already.
        """
        with self._changing:
            self._start(port, host)

    def _start(self, port: int, host: str) -> None:
        if self._thread is not None:
            raise RuntimeError(f"the embedded Pub/Sub server is already running at {self.address}")
        started = threading.Event()
        failure: list[BaseException] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(host, port, started))
            except (OSError, RuntimeError) as error:
                failure.append(error)
                started.set()

        self._thread = threading.Thread(target=serve, name="embedded-pubsub", daemon=True)
        self._thread.start()
        if not started.wait(_START_TIMEOUT):
            raise RuntimeError(f"the embedded Pub/Sub server did not start in {_START_TIMEOUT:.0f} s")
        if failure:
            self._thread.join()
            self._thread = None
            raise RuntimeError(f"cannot listen on {host}:{port}: {failure[0]}") from failure[0]

    def stop(self) -> None:
        """Close all connections. Harmless if it does not run."""
        with self._changing:
            thread, loop, stopping = self._thread, self._loop, self._stopping
            if thread is None or loop is None or stopping is None:
                return
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            self._thread = self._loop = self._stopping = None

    def __enter__(self) -> Self:
        if self._thread is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Topics and subscriptions, without a client

    def create_topic(self, name: str) -> str:
        """Create a topic by its full name, and return the name."""
        request = types.Topic.pb()(name=name)
        self.run(lambda _: self._services.create_topic(request))
        return name

    def create_subscription(self, name: str, topic: str, **fields: Any) -> str:
        """Create a subscription by its full name, and return the name.

        Args:
            name: `projects/P/subscriptions/S`
            topic: `projects/P/topics/T`, which exists.
            fields: the other fields of `google.pubsub_v1.types.Subscription`, by their names.
        """
        request = types.Subscription.pb(types.Subscription(name=name, topic=topic, **fields))
        self.run(lambda _: self._services.create_subscription(request))
        return name

    def publish(self, topic: str, data: bytes, **attributes: str) -> str:
        """Publish one message and return its id."""
        return self.run(lambda broker: broker.publish(topic, [Draft(data, attributes)]))[0]

    # For tests

    def now(self) -> float:
        """The time by which leases end and messages rest."""
        return self._clock() + self._skipped

    def advance(self, seconds: float) -> None:
        """Let that much time pass at once: leases end, resting messages become due."""

        def skip(broker: Broker) -> None:
            self._skipped += seconds
            broker.sweep()
            for name in broker.due():
                self._bells.ring(name)

        self.run(skip)

    def backlog(self, subscription: str) -> int:
        """How many messages of the subscription are not acked."""
        return self.run(lambda broker: broker.subscription(subscription).backlog)

    def leased(self, subscription: str) -> int:
        """How many of them somebody holds."""

        def count(broker: Broker) -> int:
            broker.sweep()
            return broker.subscription(subscription).leased

        return self.run(count)

    def waiting(self, subscription: str) -> int:
        """How many pulls and streams wait for a message of the subscription."""
        return self.run(lambda _: self._bells.waiting(subscription))

    @property
    def rpcs(self) -> list[Rpc]:
        """Every call so far, oldest first."""
        return self.run(lambda _: list(self._faults.rpcs))

    def calls(self, method: str) -> list[Rpc]:
        """The calls of one method, oldest first."""
        return [rpc for rpc in self.rpcs if rpc.method == method]

    def fail(
        self,
        method: str,
        status: grpc.StatusCode | None = None,
        *,
        times: int | None = None,
        delay: float = 0.0,
        applied: bool = False,
        only: Callable[[Any], bool] = lambda _: True,
    ) -> Fault:
        """Disturb calls until the returned fault is lifted or has hit so many times.

        Args:
            method: the RPC's name, such as `Pull`, or `*` for every one.
            status: what they are answered with; None to only delay them.
            times: how many calls are hit; None for all.
            delay: seconds before the answer; `float("inf")` hangs them until the fault is lifted.
            applied: they take effect and only the answer is lost.
            only: picks the requests that are hit.
        """
        return self._faults.add(Fault(method, status, times=times, delay=delay, applied=applied, only=only))

    def over_deliver(self, more: int) -> None:
        """Let every pull return up to so many messages more than it asked for."""
        self._faults.over_delivery = more

    def end_leases(self, subscription: str, only: Callable[[Message], bool] = lambda _: True) -> int:
        """End leases early, unknown to their holders: the messages are delivered again. Return how many."""
        return self.run(lambda broker: broker.subscription(subscription).end_leases(self.now(), only))

    def heal(self) -> None:
        """Lift all faults."""
        self._faults.clear()

    def run(self, action: Callable[[Broker], T]) -> T:
        """Do something with the broker, on its own thread while it runs, and return what comes of it."""

        async def act() -> T:
            return action(self._broker)

        with self._changing:
            if self._loop is None:
                return action(self._broker)
            return asyncio.run_coroutine_threadsafe(act(), self._loop).result(_CALL_TIMEOUT)

    # Inside

    async def _serve(self, host: str, port: int, started: threading.Event) -> None:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers(tuple(self._services.handlers()))
        bound = server.add_insecure_port(f"{host}:{port}")
        await server.start()
        self.address = f"{host}:{bound}"
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._sweep_at = float("inf")
        self._sweep()
        started.set()
        await self._stopping.wait()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await server.stop(None)

    def _changed(self, subscription: Subscription) -> None:
        self._bells.ring(subscription.config.name)
        event = subscription.next_event(self.now())
        if event is not None and event < self._sweep_at:
            self._sweep_in(event)

    def _sweep_in(self, event: float | None) -> None:
        """Look at the clock again when the next lease ends or the next resting message is due."""
        if self._loop is None:
            return
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._sweep_timer = None
        self._sweep_at = float("inf") if event is None else event
        if event is not None:
            # Never at once: a clock that stands still would keep this loop turning.
            self._sweep_timer = self._loop.call_later(max(event - self.now(), 0.001), self._sweep)

    def _sweep(self) -> None:
        self._sweep_at = float("inf")
        self._broker.sweep()
        for name in self._broker.due():
            self._bells.ring(name)
        self._sweep_in(self._broker.next_event())
