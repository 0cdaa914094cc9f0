"""Who would get a replay: the subscription where the message was given up, if anybody listens there still.

A message cannot be sent to a subscription, only to its topic. So the topic of the subscription is looked up,
and everybody else who hangs on it is named: they get the replay too, unless their filter leaves it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import grpc

from consumer.broker import BrokerError
from consumer.broker.messages import types
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import Method, RetryBudget, RpcFailed, unary

DELETED_TOPIC: Final = "_deleted-topic_"
"""What a subscription's topic is called once the topic is gone."""
_PAGE: Final = 1000

_GetSubscription = types.GetSubscriptionRequest.pb()
_Subscription = types.Subscription.pb()
_ListSubscriptions = types.ListTopicSubscriptionsRequest.pb()
_Subscriptions = types.ListTopicSubscriptionsResponse.pb()


class NobodyListens(Exception):
    """A replay would reach nobody; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a replay goes."""

    topic: str
    subscription: str | None
    """For whom it is; None where a topic was named that several listen to."""
    others: tuple[str, ...] = ()
    """Who gets it too."""
    unsure: str = ""
    """Why others could not be looked up."""


class Targets:
    """Looks up subscriptions and topics, each once.

    Args:
        project: of the subscriptions that may be replayed to. Which subscription a letter names is a
            stranger's word where Pub/Sub forwarded it, so no letter leads out of our project.
        endpoint: where Pub/Sub is.
        budget: how long one question is tried.
    """

    def __init__(self, project: str, endpoint: Endpoint, budget: RetryBudget) -> None:
        self._project = project
        self._budget = budget
        self._channel = endpoint.ready().connect()

    async def find(self, subscriptions: Iterable[str]) -> Mapping[str, Target | NobodyListens]:
        """Return for each subscription where its replays go, or why nobody would get them.

        Raises:
            BrokerError: it cannot be found out.
        """
        wanted = sorted(set(subscriptions))
        found = await asyncio.gather(*map(self._of_subscription, wanted))
        return dict(zip(wanted, found, strict=True))

    async def of_topic(self, topic: str) -> Target:
        """Return a topic somebody named as the target of all.

        Raises:
            NobodyListens: there is no such topic, or nobody subscribes to it.
            BrokerError: it cannot be found out.
        """
        try:
            listeners = await self._listeners(topic)
        except RpcFailed as failed:
            if failed.code is grpc.StatusCode.NOT_FOUND:
                raise NobodyListens(f"there is no topic {topic}") from failed
            if failed.code is grpc.StatusCode.PERMISSION_DENIED:
                return Target(topic, None, unsure=_may_not_list(topic))
            raise failed.as_broker_error(f"subscriptions of {topic}") from failed
        if not listeners:
            raise NobodyListens(f"nobody subscribes to {topic}: what is published there is lost")
        only = listeners[0] if len(listeners) == 1 else None
        return Target(topic, only, () if only else tuple(listeners))

    async def close(self) -> None:
        """Release the connection."""
        self._channel.close()

    async def _of_subscription(self, name: str) -> Target | NobodyListens:
        if not name.startswith(f"projects/{self._project}/subscriptions/"):
            return NobodyListens(
                f"{name} is not a subscription of project {self._project}: name a topic with --to"
            )
        try:
            topic = await self._topic_of(name)
        except NobodyListens as error:
            return error
        unsure = ""
        listeners: list[str] = []
        try:
            listeners = await self._listeners(topic)
        except RpcFailed as failed:
            if failed.code is not grpc.StatusCode.PERMISSION_DENIED:
                raise failed.as_broker_error(f"subscriptions of {topic}") from failed
            unsure = _may_not_list(topic)
        return Target(topic, name, tuple(other for other in listeners if other != name), unsure)

    async def _topic_of(self, name: str) -> str:
        method = self._method("Subscriber", "GetSubscription", _GetSubscription, _Subscription, name)
        try:
            found = await self._asked(method, _GetSubscription(subscription=name))
        except RpcFailed as failed:
            if failed.code is grpc.StatusCode.NOT_FOUND:
                raise NobodyListens(f"{name} does not exist any more: name a topic with --to") from failed
            raise failed.as_broker_error(f"subscription {name}") from failed
        if found.topic == DELETED_TOPIC:
            raise NobodyListens(f"the topic of {name} was deleted: name a topic with --to")
        if found.detached:
            raise NobodyListens(f"{name} is detached from its topic: name a topic with --to")
        topic: str = found.topic
        return topic

    async def _listeners(self, topic: str) -> list[str]:
        method = self._method(
            "Publisher", "ListTopicSubscriptions", _ListSubscriptions, _Subscriptions, topic
        )
        names: list[str] = []
        token = ""
        while True:
            request = _ListSubscriptions(topic=topic, page_size=_PAGE, page_token=token)
            page = await self._asked(method, request)
            names += page.subscriptions
            token = page.next_page_token
            if not token:
                return sorted(names)

    async def _asked(self, method: Method, request: Any) -> Any:
        failure: RpcFailed | None = None
        for pause, timeout in self._budget.attempts():
            await asyncio.sleep(pause)
            try:
                return await method(request, timeout)
            except RpcFailed as failed:
                failure = failed
                if not failed.retryable:
                    break
        if failure is None:
            raise BrokerError("no time to ask Pub/Sub anything")
        raise failure

    def _method(self, service: str, name: str, request: Any, response: Any, about: str) -> Method:
        kind = "subscription" if service == "Subscriber" else "topic"
        return unary(self._channel, service, name, request, response, f"{kind}={quote(about, safe='')}")


def _may_not_list(topic: str) -> str:
    return f"no permission to list the subscriptions of {topic}: whoever else subscribes gets replays too"
