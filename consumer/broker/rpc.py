"""One call over gRPC from asyncio, and what a failed one means.

The calls go through gRPC's threaded stack, whose futures need no thread per wait: its single channel
thread hands the answer to the event loop. So the lease keeper, which has no event loop, can use the same
channel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from consumer.broker import BrokerError, BrokerMisconfigured, BrokerUnavailable

MAX_IDS_PER_RPC: Final = 1000
"""Pub/Sub's request limit is 512 KiB, and an ack id has less than 200 bytes."""

# gRPC enforces a call's deadline itself. Should it ever not answer at all, we do after this long.
_BACKSTOP = 2.0

_RETRYABLE = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
# How gRPC words it when the credentials could not get a token: it keeps neither the exception nor its
# class, and gives it a status that reads like an outage.
_NO_TOKEN = "Getting metadata from plugin failed"  # noqa: S105 (not a token)


class RpcFailed(Exception):
    """A call that did not succeed."""

    def __init__(self, code: grpc.StatusCode, details: str, refused: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        # Of ack ids the broker may say one by one which it did not accept, and why. The others it accepted.
        refused = refused or {}
        self.undecided = frozenset(ack_id for ack_id, why in refused.items() if why.startswith("TRANSIENT_"))
        """Ack ids to try again."""
        self.lost = refused.keys() - self.undecided
        """Ack ids that hold no lease any more."""

    @property
    def no_token(self) -> bool:
        """Whether it was our own credentials that failed."""
        return _NO_TOKEN in str(self)

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.code in _RETRYABLE or bool(self.undecided)

    def as_broker_error(self, doing: str) -> BrokerError:
        """The failure in the words of the port."""
        if self.no_token:
            return BrokerMisconfigured(f"{doing}: the credentials get no token: {self}")
        if self.retryable:
            return BrokerUnavailable(f"{doing}: {self}")
        return BrokerMisconfigured(f"{doing}: {self}")


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How long to try."""

    total: float = 60.0
    per_call: float = 10.0
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def attempts(self) -> Iterator[tuple[float, float]]:
        """For each attempt, the pause before it and its timeout, until the time is used up."""
        end = time.monotonic() + self.total
        yield 0.0, min(self.per_call, self.total)
        pause = self.first_pause
        while (left := end - time.monotonic() - pause) > 0:
            yield pause, min(self.per_call, left)
            pause = min(2 * pause, self.longest_pause)


DEFAULT_BUDGET: Final = RetryBudget()


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of Pub/Sub on one channel."""

    stub: Any
    metadata: tuple[tuple[str, str], ...]

    def begin(self, request: Any, timeout: float) -> Any:
        """Send the request; the returned gRPC future tells the rest.

        Raises:
            BrokerUnavailable: the channel is closed.
        """
        try:
            return self.stub.future(request, timeout=timeout, metadata=self.metadata)
        except ValueError as error:  # gRPC's way of saying that the channel is closed
            raise BrokerUnavailable(str(error)) from error

    async def __call__(self, request: Any, timeout: float) -> Any:
        """Send the request and wait for the answer.

        Raises:
            RpcFailed: there was none, or a bad one.
            BrokerUnavailable: the channel is closed.
        """
        call = self.begin(request, timeout)
        await finished(call, timeout)
        return answer_of(call)


async def finished(call: Any, timeout: float) -> None:
    """Wait until the call is over, well or badly. If the waiting is cancelled, so is the call."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def tell(_: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, over)

    call.add_done_callback(tell)
    try:
        async with asyncio.timeout(timeout + _BACKSTOP):
            await over
    except TimeoutError:
        call.cancel()
        raise RpcFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "gRPC did not keep the deadline") from None
    except asyncio.CancelledError:
        call.cancel()
        raise


def answer_of(call: Any) -> Any:
    """The answer of a call that is over.

    Raises:
        RpcFailed: there was none, or a bad one.
    """
    code = call.code()
    if code is grpc.StatusCode.OK:
        return call.result()
    raise RpcFailed(code, call.details() or "", _refused_ids(call.trailing_metadata() or ()))


def unary(
    channel: grpc.Channel, service: str, name: str, request: Any, response: Any, routing: str
) -> Method:
    """The method `name` of a service, with the header by which Google routes the call.

    Google's generated wrapper is left out: it costs more than the call itself, and with its debug logging on
    it blocks until the answer is there.
    """
    stub = channel.unary_unary(
        f"/google.pubsub.v1.{service}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return Method(stub, (("x-goog-request-params", routing),))


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refused_ids(trailers: Any) -> Mapping[str, str]:
    """What an exactly-once subscription says about single ack ids."""
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return dict(info.metadata)
    return {}
