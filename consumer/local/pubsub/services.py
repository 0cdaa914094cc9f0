"""The two services of `google.pubsub.v1`, as far as the embedded broker goes, method by method."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
from google.pubsub_v1 import types

from consumer.local.pubsub import wire
from consumer.local.pubsub.bells import Bells
from consumer.local.pubsub.faults import Fault, Faults, Rpc
from consumer.local.pubsub.messages import (
    DELETED_TOPIC,
    AlreadyExists,
    Invalid,
    NotFound,
    Refused,
    StaleAckIds,
)
from consumer.local.pubsub.streaming import StreamingPull
from consumer.local.pubsub.topics import Broker

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[Any, Context], Awaitable[Any]]

LONG_POLL = 60.0
MAX_RESPONSE_BYTES = 10_000_000

_STATUS: dict[type[Refused], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    StaleAckIds: grpc.StatusCode.INVALID_ARGUMENT,
}

_Topic = types.Topic.pb()
_Subscription = types.Subscription.pb()
_StreamingPullRequest = types.StreamingPullRequest.pb()


class Services:
    """Translates every call into one of the broker's, and the broker's refusals into statuses."""

    def __init__(self, broker: Broker, bells: Bells, faults: Faults) -> None:
        self._broker = broker
        self._bells = bells
        self._faults = faults
        # What callers described, to be given back in full: the broker keeps only what it acts on.
        self._topics: dict[str, Any] = {}
        self._subscriptions: dict[str, Any] = {}

    def handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        """The method tables of both services."""
        publisher: Mapping[str, tuple[Callable[[Any], Any], Any]] = {
            "CreateTopic": (self.create_topic, _Topic),
            "GetTopic": (self._get_topic, types.GetTopicRequest.pb()),
            "ListTopics": (self._list_topics, types.ListTopicsRequest.pb()),
            "DeleteTopic": (self._delete_topic, types.DeleteTopicRequest.pb()),
            "ListTopicSubscriptions": (self._listeners, types.ListTopicSubscriptionsRequest.pb()),
            "Publish": (self._publish, types.PublishRequest.pb()),
        }
        subscriber: Mapping[str, tuple[Callable[[Any], Any], Any]] = {
            "CreateSubscription": (self.create_subscription, _Subscription),
            "GetSubscription": (self._get_subscription, types.GetSubscriptionRequest.pb()),
            "ListSubscriptions": (self._list_subscriptions, types.ListSubscriptionsRequest.pb()),
            "UpdateSubscription": (self._update_subscription, types.UpdateSubscriptionRequest.pb()),
            "DeleteSubscription": (self._delete_subscription, types.DeleteSubscriptionRequest.pb()),
            "Acknowledge": (self._acknowledge, types.AcknowledgeRequest.pb()),
            "ModifyAckDeadline": (self._modify_ack_deadline, types.ModifyAckDeadlineRequest.pb()),
        }
        streaming = grpc.stream_stream_rpc_method_handler(
            self._streaming_pull,
            request_deserializer=_StreamingPullRequest.FromString,
            response_serializer=_serialized,
        )
        pulling = {
            "Pull": self._unary("Pull", self._pull, types.PullRequest.pb()),
            "StreamingPull": streaming,
        }
        return [
            grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", self._table(publisher)),
            grpc.method_handlers_generic_handler(
                "google.pubsub.v1.Subscriber", {**self._table(subscriber), **pulling}
            ),
        ]

    def _table(self, methods: Mapping[str, tuple[Callable[[Any], Any], Any]]) -> dict[str, Any]:
        return {
            name: self._unary(name, _at_once(behaviour), request_type)
            for name, (behaviour, request_type) in methods.items()
        }

    def _unary(self, method: str, answer: Answer, request_type: Any) -> Any:
        """The handler of one method: recorded, disturbed if a fault says so, refusals made statuses."""

        async def guarded(request: Any, context: Context) -> Any:
            self._faults.rpcs.append(_record(method, request, context.peer()))
            fault = self._faults.hit(method, request)
            try:
                if fault is not None:
                    return await _disturb(fault, answer, request, context)
                return await answer(request, context)
            except Refused as refusal:
                await refuse(context, refusal)

        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=request_type.FromString, response_serializer=_serialized
        )

    # Publisher

    def create_topic(self, request: Any) -> Any:
        """Create a topic as described."""
        self._broker.create_topic(request.name)
        self._topics[request.name] = request
        return request

    def _get_topic(self, request: Any) -> Any:
        self._broker.require_topic(request.topic)
        return self._topics[request.topic]

    def _list_topics(self, request: Any) -> Any:
        names = self._broker.topics(request.project)
        return types.ListTopicsResponse.pb()(topics=[self._topics[name] for name in names])

    def _delete_topic(self, request: Any) -> Any:
        self._broker.delete_topic(request.topic)
        del self._topics[request.topic]
        for described in self._subscriptions.values():
            if described.topic == request.topic:
                described.topic = DELETED_TOPIC
        return wire.Empty()

    def _listeners(self, request: Any) -> Any:
        self._broker.require_topic(request.topic)
        names = [name for name, described in self._subscriptions.items() if described.topic == request.topic]
        return types.ListTopicSubscriptionsResponse.pb()(subscriptions=sorted(names))

    def _publish(self, request: Any) -> Any:
        ids = self._broker.publish(request.topic, [wire.draft_of(message) for message in request.messages])
        return types.PublishResponse.pb()(message_ids=ids)

    # Subscriber

    def create_subscription(self, request: Any) -> Any:
        """Create a subscription as described, and return it with all defaults filled in."""
        described = wire.with_defaults(request)
        self._broker.create_subscription(wire.config_of(described))
        self._subscriptions[described.name] = described
        return described

    def _get_subscription(self, request: Any) -> Any:
        self._broker.subscription(request.subscription)
        return self._subscriptions[request.subscription]

    def _list_subscriptions(self, request: Any) -> Any:
        found = [self._subscriptions[s.config.name] for s in self._broker.subscriptions(request.project)]
        return types.ListSubscriptionsResponse.pb()(subscriptions=found)

    def _update_subscription(self, request: Any) -> Any:
        name = request.subscription.name
        subscription = self._broker.subscription(name)
        described = wire.updated(self._subscriptions[name], request.subscription, request.update_mask.paths)
        config = wire.config_of(described)
        if config.dead_letter is not None:
            self._broker.require_topic(config.dead_letter.topic)
        subscription.config = config
        self._subscriptions[name] = described
        return described

    def _delete_subscription(self, request: Any) -> Any:
        self._broker.delete_subscription(request.subscription)
        del self._subscriptions[request.subscription]
        self._bells.ring(request.subscription)  # who waits on it is told that it is gone
        return wire.Empty()

    async def _pull(self, request: Any, context: Context) -> Any:
        if request.max_messages <= 0:
            raise Invalid("max_messages must be positive")
        # Answered before the caller's own deadline: a lease that is granted and then lost with the call
        # would cost the message an attempt.
        left = context.time_remaining()
        end = time.monotonic() + min(LONG_POLL, LONG_POLL if left is None else left * 0.9)
        most = request.max_messages + self._faults.over_delivery
        while True:
            taken = self._broker.subscription(request.subscription).pull(
                self._broker.now(), most, max_bytes=MAX_RESPONSE_BYTES
            )
            if taken or request.return_immediately:
                break
            woken = await self._bells.wait(request.subscription, end - time.monotonic())
            if not woken or context.done():
                break
        return types.PullResponse.pb()(received_messages=[wire.received(leased) for leased in taken])

    def _acknowledge(self, request: Any) -> Any:
        if not request.ack_ids:
            raise Invalid("No ack ids specified.")
        self._broker.subscription(request.subscription).acknowledge(self._broker.now(), request.ack_ids)
        return wire.Empty()

    def _modify_ack_deadline(self, request: Any) -> Any:
        if not request.ack_ids:
            raise Invalid("No ack ids specified.")
        self._broker.subscription(request.subscription).modify_deadline(
            self._broker.now(), request.ack_ids, request.ack_deadline_seconds
        )
        return wire.Empty()

    async def _streaming_pull(self, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            first = await anext(requests, None)
            if first is None:
                return
            self._faults.rpcs.append(_record("StreamingPull", first, context.peer()))
            fault = self._faults.hit("StreamingPull", first)
            if fault is not None:
                await _disturb(fault, _nothing, first, context)
            await StreamingPull(self._broker, self._bells, first, context).run(requests)
        except Refused as refusal:
            await refuse(context, refusal)


async def refuse(context: Context, refusal: Refused) -> None:
    """End the call with the status that stands for this refusal."""
    status = _STATUS[type(refusal)]
    if isinstance(refusal, StaleAckIds):
        code: int = status.value[0]
        detail = wire.stale_ack_status(code, str(refusal), refusal.ack_ids)
        context.set_trailing_metadata((("grpc-status-details-bin", detail),))
    await context.abort(status, str(refusal))


async def _disturb(fault: Fault, answer: Answer, request: Any, context: Context) -> Any:
    answered = await answer(request, context) if fault.applied else None
    await fault.hold()
    if fault.status is not None:
        await context.abort(fault.status, f"injected into {fault.method}")
    return answered if fault.applied else await answer(request, context)


def _at_once(behaviour: Callable[[Any], Any]) -> Answer:
    async def answer(request: Any, _: Context) -> Any:
        return behaviour(request)

    return answer


def _serialized(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


async def _nothing(_request: Any, _context: Context) -> None:
    """What a disturbed stream has done before it is disturbed."""


def _record(method: str, request: Any, peer: str) -> Rpc:
    ids, ack_ids, seconds = 0, (), None
    if method in ("Acknowledge", "ModifyAckDeadline"):
        ack_ids = tuple(request.ack_ids)
        ids = len(ack_ids)
        seconds = request.ack_deadline_seconds if method == "ModifyAckDeadline" else None
    elif method == "Publish":
        ids = len(request.messages)
    elif method == "Pull":
        ids = request.max_messages
    return Rpc(method, time.monotonic(), ids, ack_ids, seconds, peer)
