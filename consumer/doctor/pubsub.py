"""Pub/Sub, asked about topics, subscriptions and permissions through Google's own admin clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.api_core import exceptions as api
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from consumer.broker import BrokerMisconfigured
from consumer.broker.pubsub import Endpoint
from consumer.doctor.checks import LIMIT, Forbidden, Missing, Skip, Unanswered, Unreachable, Unsupported
from consumer.doctor.once import Once, aside

T = TypeVar("T")

REACHABLE = "pubsub.reachable"
_CALL = {"retry": None, "timeout": 4.0}
"""How each is asked: two calls, one after the other, fit into a check's time."""
_CONTACT_TIMEOUT = LIMIT - 1.0


@dataclass(frozen=True, slots=True)
class _Clients:
    channel: grpc.Channel
    publisher: Any
    subscriber: Any
    credentials: Any


class PubSub:
    """Asks each question once.

    Args:
        endpoint: where Pub/Sub is.
        first: the subscription that is asked for to find out whether anybody answers.
    """

    def __init__(self, endpoint: Endpoint, first: str) -> None:
        self._endpoint = endpoint
        self._first = first
        self._once = Once()
        self._clients: _Clients | None = None

    async def contact(self) -> None:
        """Return if Pub/Sub answers; whatever it answers.

        Raises:
            Unreachable: it does not, or there are no credentials.
        """
        await self._once.get("contact", self._contact)

    async def subscription(self, name: str) -> Any:
        """Return a subscription (`google.pubsub_v1.types.Subscription`) by its full name.

        Raises:
            Missing, Forbidden, Unreachable, Unanswered: there is no telling.
        """
        return await self._ask("subscription", name, lambda clients: _subscription(clients, name))

    async def topic(self, name: str) -> Any:
        """Return a topic (`google.pubsub_v1.types.Topic`) by its full name.

        Raises:
            Missing, Forbidden, Unreachable, Unanswered: there is no telling.
        """
        return await self._ask(
            "topic", name, lambda clients: clients.publisher.get_topic(request={"topic": name}, **_CALL)
        )

    async def subscriptions_of(self, topic: str) -> Sequence[str]:
        """Return the names of the subscriptions attached to a topic.

        Raises:
            Missing, Forbidden, Unreachable, Unanswered: there is no telling.
        """
        await self.topic(topic)  # an emulator says of a topic that does not exist that nobody listens to it
        return await self._ask(
            "subscriptions of",
            topic,
            lambda clients: list(
                clients.publisher.list_topic_subscriptions(request={"topic": topic}, **_CALL)
            ),
        )

    async def permitted(self, resource: str, permission: str) -> bool:
        """Tell whether this identity has the permission; on what does not exist it has none.

        Raises:
            Unsupported, Unreachable, Unanswered: there is no telling.
        """
        request = {"resource": resource, "permissions": [permission]}
        try:
            return await self._ask(
                permission,
                resource,
                lambda clients: (
                    permission in clients.publisher.test_iam_permissions(request=request, **_CALL).permissions
                ),
            )
        except Forbidden as error:
            # Anybody may ask what they may: it is the service that is switched off, or out of bounds.
            raise Unanswered(str(error)) from error

    async def grants(self, resource: str) -> Mapping[str, frozenset[str]]:
        """Return the members of each role that is granted on the resource itself.

        Raises:
            Missing, Forbidden, Unsupported, Unreachable, Unanswered: there is no telling.
        """

        def read(clients: _Clients) -> Mapping[str, frozenset[str]]:
            policy = clients.publisher.get_iam_policy(request={"resource": resource}, **_CALL)
            return {binding.role: frozenset(binding.members) for binding in policy.bindings}

        return await self._ask("grants", resource, read)

    async def identity(self) -> str:
        """Return whose credentials these are; empty if they do not say.

        Raises:
            Unreachable: there are none.
        """
        await self.contact()
        # Not before: those of a machine or a pod learn it from the metadata server with their first token.
        credentials = self._clients.credentials if self._clients else None
        who = str(getattr(credentials, "service_account_email", None) or "")
        return "" if who == "default" else who

    async def close(self) -> None:
        """Drop the connection, and whatever is still being asked."""
        self._once.forget()
        if self._clients is not None:
            await aside(self._clients.channel.close)

    async def _ask(self, what: str, name: str, ask: Callable[[_Clients], T]) -> T:
        await self.contact()

        async def answer() -> T:
            try:
                return await self._answer(ask)
            except api.GoogleAPICallError as error:
                raise _translated(error, name) from error

        return await self._once.get((what, name), answer)

    async def _answer(self, ask: Callable[[_Clients], T]) -> T:
        clients = await self._once.get("clients", self._connect)
        return await aside(lambda: ask(clients))

    async def _connect(self) -> _Clients:
        self._clients = clients = await aside(lambda: _connected(self._endpoint))
        return clients

    async def _contact(self) -> None:
        try:
            async with asyncio.timeout(_CONTACT_TIMEOUT):
                await self._answer(lambda clients: _subscription(clients, self._first))
        except (api.NotFound, api.InvalidArgument, api.Forbidden, api.MethodNotImplemented):
            return
        except api.GoogleAPICallError as error:
            raise Unreachable(REACHABLE, f"no answer: {said(error)}") from error
        except BrokerMisconfigured as error:
            raise Unreachable(REACHABLE, str(error)) from error
        except TimeoutError as error:
            raise Unreachable(REACHABLE, f"no answer within {_CONTACT_TIMEOUT:g} s") from error


def said(error: api.GoogleAPICallError) -> str:
    """Return what the service said, in a line."""
    return " ".join(str(error.message or error).split()) or type(error).__name__


def _connected(endpoint: Endpoint) -> _Clients:
    ready = endpoint.ready()
    channel = ready.connect()
    return _Clients(
        channel,
        PublisherClient(transport=PublisherGrpcTransport(channel=channel)),
        SubscriberClient(transport=SubscriberGrpcTransport(channel=channel)),
        ready.credentials,
    )


def _subscription(clients: _Clients, name: str) -> Any:
    return clients.subscriber.get_subscription(request={"subscription": name}, **_CALL)


def _translated(error: api.GoogleAPICallError, name: str) -> Skip | Unanswered:
    match error:
        case api.NotFound():
            return Missing(f"{name} does not exist")
        case api.InvalidArgument():
            return Missing(said(error))
        case api.Forbidden():
            return Forbidden(f"this identity may not look, roles/pubsub.viewer would let it: {said(error)}")
        case api.MethodNotImplemented():
            return Unsupported("this server knows no such question, as emulators do not")
        case _:
            return Unanswered(f"Pub/Sub answered {type(error).__name__}: {said(error)}")
