"""What a command works with: the subscription, the leases it holds, and a way to stop in good order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import RetryBudget
from consumer.broker.subscriber import PubSubSubscriber
from consumer.dead_letters.browsing import IDLE_PULLS, Browser
from consumer.dead_letters.filters import Filters
from consumer.dead_letters.holding import Holding
from consumer.dead_letters.stored import StoredOriginals
from consumer.interrupt import Stop, interruptible
from consumer.settings import full_name
from consumer.storage import ObjectStore
from consumer.terminal import complain


class Interrupted(Exception):
    """A person stopped it before anything was done."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the dead letters are."""

    project: str
    emulator: str | None
    bucket: str | None
    storage_emulator: str | None
    timeout: float
    """Seconds for which a broker that is away is waited for."""

    @property
    def endpoint(self) -> Endpoint:
        """Where Pub/Sub is."""
        return Endpoint(emulator=self.emulator)

    @property
    def budget(self) -> RetryBudget:
        """How long one call is tried."""
        return RetryBudget(total=self.timeout, per_call=min(self.timeout, 10.0))

    def originals(self) -> StoredOriginals:
        """What reads originals that are kept in the bucket."""
        return StoredOriginals(self._open_store, self.bucket)

    def _open_store(self) -> ObjectStore:
        from consumer.storage.gcs import GcsStore  # slow to import, and seldom needed

        return GcsStore(self.project, emulator=self.storage_emulator, retry_s=self.timeout)


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for, and where."""

    place: Place
    subscription: str
    """Short or full name."""
    wait: float
    """Seconds without a message after which it is taken to be empty."""
    filters: Filters
    limit: int | None


@dataclass(frozen=True, slots=True)
class Desk:
    """One subscription, being looked through."""

    subscription: str
    browser: Browser
    holding: Holding
    originals: StoredOriginals
    stop: Stop


@asynccontextmanager
async def open_desk(search: Search) -> AsyncIterator[Desk]:
    """Work on a subscription; whatever is still leased at the end is handed back.

    Raises:
        BrokerMisconfigured: there are no credentials.
    """
    place = search.place
    name = full_name("subscriptions", search.subscription, place.project)
    endpoint = await asyncio.to_thread(place.endpoint.ready)
    async with AsyncExitStack() as resources:
        stop = await resources.enter_async_context(interruptible(say_that_it_stops))
        subscriber = PubSubSubscriber(name, endpoint, search.wait / IDLE_PULLS, place.budget)
        resources.push_async_callback(subscriber.close)
        originals = place.originals()
        resources.push_async_callback(originals.close)
        holding = Holding(subscriber)
        resources.callback(_say_what_is_left, holding)
        await resources.enter_async_context(holding)
        browser = Browser(subscriber, holding, originals.filled, stop, place.timeout)
        yield Desk(name, browser, holding, originals, stop)


def say_that_it_stops() -> None:
    """Say what Ctrl-C does, and what another one would do."""
    complain(
        "stopping", "what is under way is finished, the rest handed back; Ctrl-C again ends it", "yellow"
    )


def _say_what_is_left(holding: Holding) -> None:
    if holding.left_leased:
        complain(
            "warning",
            f"{holding.left_leased} messages could not be handed back: they come when their lease is over",
            "yellow",
        )
