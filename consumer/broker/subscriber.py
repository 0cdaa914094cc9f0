"""The subscriber's port over Pub/Sub: unary pulls, checked acks, extensions for the lease keeper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC
from typing import Any
from urllib.parse import quote

import grpc

from consumer.broker import BrokerError, Delivery, LeaseLost
from consumer.broker.acks import Acks
from consumer.broker.messages import types
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import (
    DEFAULT_BUDGET,
    MAX_IDS_PER_RPC,
    Method,
    RetryBudget,
    RpcFailed,
    answer_of,
    finished,
    unary,
)

# Longer than the servers wait before they answer that there is nothing: a pull that is given up from this
# side may already have leased a message, which then rests until that lease is over.
PULL_TIMEOUT = 90.0
_HAND_BACK_TIMEOUT = 5.0

_PullRequest = types.PullRequest.pb()
_AcknowledgeRequest = types.AcknowledgeRequest.pb()
_ModifyRequest = types.ModifyAckDeadlineRequest.pb()
# Both answer with an empty message; any message class reads one.
_Nothing = types.PullResponse.pb()


class PubSubSubscriber:
    """Leases messages from one subscription.

    Args:
        subscription: its full name, `projects/P/subscriptions/S`.
        endpoint: where Pub/Sub is.
        pull_timeout: how long a pull waits for messages.
        budget: how long acks and new deadlines are tried.
    """

    def __init__(
        self,
        subscription: str,
        endpoint: Endpoint,
        pull_timeout: float = PULL_TIMEOUT,
        budget: RetryBudget = DEFAULT_BUDGET,
    ) -> None:
        self._subscription = subscription
        self._pull_timeout = pull_timeout
        self._budget = budget
        self._endpoint = endpoint.ready()
        self._closed = False
        self._retired: grpc.Channel | None = None
        self.silences = 0
        """Pulls that got no answer at all, after each of which the connection was made anew."""
        self._connect()
        self._acks = Acks(self._send_acks)

    def _connect(self) -> None:
        self._channel = self._endpoint.connect()
        routing = f"subscription={quote(self._subscription, safe='')}"

        def method(name: str, request: Any, response: Any) -> Method:
            return unary(self._channel, "Subscriber", name, request, response, routing)

        self._pull = method("Pull", _PullRequest, types.PullResponse.pb())
        self._acknowledge = method("Acknowledge", _AcknowledgeRequest, _Nothing)
        self._modify = method("ModifyAckDeadline", _ModifyRequest, _Nothing)

    def _reconnect(self) -> None:
        """Go on over a new connection: a peer that is silent for longer than it should may stay so.

        Calls under way over the old one get the time until the next change.
        """
        if self._closed:
            return
        self.silences += 1
        oldest, self._retired = self._retired, self._channel
        self._connect()
        if oldest is not None:
            oldest.close()

    async def pull(self, max_messages: int) -> Sequence[Delivery]:
        """Wait for messages and return at most `max_messages` of them; none after a while is no error.

        Raises:
            BrokerUnavailable: try again later.
            BrokerMisconfigured: no such subscription, no permission, or no token.
        """
        if self._closed:
            return ()
        request = _PullRequest(subscription=self._subscription, max_messages=max_messages)
        try:
            call = self._pull.begin(request, self._pull_timeout)
            try:
                await finished(call, self._pull_timeout)
            except asyncio.CancelledError:
                self._hand_back(call)
                raise
            response = answer_of(call)
        except RpcFailed as failure:
            if self._closed or failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._reconnect()
                return ()
            raise failure.as_broker_error(f"pull from {self._subscription}") from failure
        return [_delivery(received) for received in response.received_messages]

    async def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Say that the messages are done, and have it confirmed.

        Acks that are asked for while others are under way are sent together.

        Raises:
            LeaseLost: these ids hold no lease any more; the others are acked.
            BrokerUnavailable: not confirmed in time.
            BrokerMisconfigured: no such subscription, no permission, or no token.
        """
        await self._acks.add(ack_ids)

    async def modify_deadline(self, ack_ids: Sequence[str], seconds: int) -> None:
        """Set how long the leases last from now; 0 hands the messages back at once.

        Raises:
            LeaseLost: these ids hold no lease any more; the others have their new deadline.
            BrokerUnavailable: not confirmed in time.
            BrokerMisconfigured: no such subscription, no permission, or no token.
        """
        lost: frozenset[str] = frozenset()
        for start in range(0, len(ack_ids), MAX_IDS_PER_RPC):
            chunk = ack_ids[start : start + MAX_IDS_PER_RPC]
            lost |= await self._confirmed(lambda: self._modify, self._modify_request(seconds), chunk)
        if lost:
            raise LeaseLost(lost)

    def extend(self, ack_ids: Sequence[str], seconds: int, timeout: float) -> Future[None]:
        """Send one extension and return at once: what the lease keeper does. Needs no event loop."""
        outcome: Future[None] = Future()

        def note(call: Any) -> None:
            try:
                answer_of(call)
            except RpcFailed as failure:
                outcome.set_exception(self._refusal(failure, ack_ids))
            else:
                outcome.set_result(None)

        try:
            self._modify.begin(self._modify_request(seconds)(ack_ids), timeout).add_done_callback(note)
        except BrokerError as error:
            outcome.set_exception(error)
        return outcome

    async def close(self) -> None:
        """Release the connection; a pull that waits ends with no messages."""
        self._closed = True
        await self._acks.close()
        for channel in (self._channel, self._retired):
            if channel is not None:
                channel.close()

    def _modify_request(self, seconds: int) -> Callable[[Sequence[str]], Any]:
        def request(ack_ids: Sequence[str]) -> Any:
            return _ModifyRequest(
                subscription=self._subscription, ack_ids=ack_ids, ack_deadline_seconds=seconds
            )

        return request

    async def _send_acks(self, ack_ids: Sequence[str]) -> frozenset[str]:
        def request(ids: Sequence[str]) -> Any:
            return _AcknowledgeRequest(subscription=self._subscription, ack_ids=ids)

        return await self._confirmed(lambda: self._acknowledge, request, ack_ids)

    async def _confirmed(
        self, method: Callable[[], Method], request: Callable[[Sequence[str]], Any], ack_ids: Sequence[str]
    ) -> frozenset[str]:
        """Try until every id is accepted or refused; return the refused ones."""
        lost: frozenset[str] = frozenset()
        failure: RpcFailed | None = None
        for pause, timeout in self._budget.attempts():
            await asyncio.sleep(pause)
            try:
                await method()(request(ack_ids), timeout)
            except RpcFailed as failed:
                failure = failed
            else:
                return lost
            if failure.lost or failure.undecided:
                lost |= failure.lost
                ack_ids = [ack_id for ack_id in ack_ids if ack_id in failure.undecided]
                if not ack_ids:
                    return lost
            elif failure.code is grpc.StatusCode.INVALID_ARGUMENT and len(ack_ids) > 1:
                # One id is malformed, and the answer does not say which: the others must not suffer for it.
                for ack_id in ack_ids:
                    lost |= await self._confirmed(method, request, [ack_id])
                return lost
            elif failure.code is grpc.StatusCode.INVALID_ARGUMENT:
                return lost | frozenset(ack_ids)
            elif not failure.retryable:
                break
        assert failure is not None  # noqa: S101 (there is always a first attempt)
        raise failure.as_broker_error(f"{len(ack_ids)} ack id(s) of {self._subscription}") from failure

    def _refusal(self, failure: RpcFailed, ack_ids: Sequence[str]) -> Exception:
        """What a failed extension means: some leases are over, or nothing can be said."""
        if failure.lost:
            return LeaseLost(failure.lost, failure.undecided)
        if failure.code is grpc.StatusCode.INVALID_ARGUMENT and not failure.undecided and len(ack_ids) == 1:
            return LeaseLost(ack_ids)
        return failure.as_broker_error(f"extend {len(ack_ids)} lease(s) of {self._subscription}")

    def _hand_back(self, call: Any) -> None:
        """Give back what arrived after nobody waited for it any more."""

        def nack(done: Any) -> None:
            if done.code() is grpc.StatusCode.OK:
                ack_ids = [received.ack_id for received in done.result().received_messages]
                if ack_ids:
                    self.extend(ack_ids, 0, _HAND_BACK_TIMEOUT)

        call.add_done_callback(nack)


def _delivery(received: Any) -> Delivery:
    message = received.message
    return Delivery(
        ack_id=received.ack_id,
        message_id=message.message_id,
        data=message.data,
        attributes=dict(message.attributes),
        publish_time=message.publish_time.ToDatetime(tzinfo=UTC),
        delivery_attempt=received.delivery_attempt or None,
    )
