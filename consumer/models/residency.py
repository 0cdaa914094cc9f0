"""Which models are on the devices when not all of them fit: lazy ones make room for each other.

A job is admitted with all the models its pipeline names, at once and in order: so none waits half-way for
what another holds. Models that nobody uses stay until their room is needed; the one unused for longest goes
first.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import structlog

from pipeline_steps.errors import DeviceOverloaded, ModelUnavailable

log = structlog.get_logger()

_UNANNOUNCED_WAIT = 60.0
"""Seconds that a model is waited for which a step asks for without having named it before."""


class DeviceFull(ModelUnavailable):
    """A model did not fit onto a device beside what is there."""


class Residency:
    """Keeps account of what the models take, and of who uses them.

    Args:
        budget: bytes that a device may hold for models; None where that is the device's own affair.
        load: puts a model on every device, and returns the bytes it takes on each; raises `DeviceFull`
            where it does not fit.
        unload: takes it off again.
    """

    def __init__(
        self,
        budget: int | None,
        load: Callable[[str], Awaitable[int]],
        unload: Callable[[str], Awaitable[None]],
    ) -> None:
        self._budget = budget
        self._load = load
        self._unload = unload
        self._pinned: set[str] = set()
        self._sizes: dict[str, int] = {}
        """Bytes of each model that was ever loaded."""
        self._resident: OrderedDict[str, None] = OrderedDict()
        """The lazy models that are loaded; the one unused for longest comes first."""
        self._users: Counter[str] = Counter()
        self._admission = asyncio.Lock()
        self._left = asyncio.Event()

    @property
    def resident(self) -> tuple[str, ...]:
        """The lazy models that are loaded."""
        return tuple(self._resident)

    async def pin(self, name: str) -> None:
        """Load a model that stays.

        Raises:
            ModelUnavailable: it does not load, or there is no room for it.
        """
        self._sizes[name] = await self._load(name)
        self._pinned.add(name)
        if self._budget is not None and self._taken() > self._budget:
            raise ModelUnavailable(
                f"model {name!r}: the pinned models take {self._taken()} bytes on each device, MODEL_MEMORY "
                f"is {self._budget}; mark some of them `pinned: false`"
            )

    @asynccontextmanager
    async def holding(self, names: Collection[str]) -> AsyncIterator[None]:
        """Have all these models loaded for as long as the context lasts.

        Raises:
            ModelUnavailable: one of them does not load, or they do not fit together.
        """
        lazy = sorted(set(names) - self._pinned)
        if lazy:
            await self._enter(lazy)
        try:
            yield
        finally:
            self._leave(lazy)

    @asynccontextmanager
    async def holding_unannounced(self, name: str) -> AsyncIterator[None]:
        """Have one model loaded for a single call, by a job that may be holding others.

        Raises:
            ModelUnavailable: it does not load.
            DeviceOverloaded: there was no room for it in time: those who hold it may be waiting for us.
        """
        if name in self._pinned:
            yield
            return
        if name in self._resident:
            self._users[name] += 1
        else:
            try:
                async with asyncio.timeout(_UNANNOUNCED_WAIT):
                    await self._enter([name])
            except TimeoutError:
                raise DeviceOverloaded(f"model {name!r}: no room for it in {_UNANNOUNCED_WAIT:g} s") from None
        try:
            yield
        finally:
            self._leave([name])

    async def _enter(self, names: list[str]) -> None:
        async with self._admission:
            self._users.update(names)
            try:
                for name in names:
                    await self._bring(name, names)
            except BaseException:
                self._leave(names)
                raise

    def _leave(self, names: Collection[str]) -> None:
        for name in names:
            self._users[name] -= 1
            if name in self._resident:
                self._resident.move_to_end(name)
        self._users = +self._users  # names of those who left must not pile up
        self._left.set()

    async def _bring(self, name: str, mine: Collection[str]) -> None:
        if name in self._resident:
            return
        await self._make_room(self._sizes.get(name, 0), mine)
        self._sizes[name] = await self._load_in_room(name, mine)
        self._resident[name] = None
        try:
            await self._make_room(0, mine)  # it may be larger than was known
        except ModelUnavailable:
            del self._resident[name]  # else whoever comes next would find them together
            await self._unload(name)
            raise

    async def _load_in_room(self, name: str, mine: Collection[str]) -> int:
        """Load a model; where it does not fit others go, for not all that a device holds is known here."""
        while True:
            try:
                return await self._load(name)
            except DeviceFull as error:
                full = str(error)
            if not await self._unload_one(mine):
                raise ModelUnavailable(full)

    async def _make_room(self, wanted: int, mine: Collection[str]) -> None:
        while self._budget is not None and self._taken() + wanted > self._budget:
            if not await self._unload_one(mine):
                raise ModelUnavailable(
                    f"models {', '.join(mine)}: with those that are pinned they take "
                    f"{self._taken() + wanted} bytes on each device, and MODEL_MEMORY is {self._budget}"
                )

    async def _unload_one(self, mine: Collection[str]) -> bool:
        """Take off the model unused for longest, when one is left by all; say no if only we use any."""
        while (idle := next((name for name in self._resident if not self._users[name]), None)) is None:
            if not any(self._users[name] > (name in mine) for name in self._resident):
                return False
            self._left.clear()
            await self._left.wait()
        log.info("model_unloaded", model=idle, bytes=self._sizes[idle])
        del self._resident[idle]
        await self._unload(idle)
        return True

    def _taken(self) -> int:
        return sum(self._sizes[name] for name in (*self._pinned, *self._resident))
