"""`DEVICES=simulated`: a worker without models, to be tested and measured without torch.

Its models answer with made-up things in the types of the real ones. Options follow the name, separated by
colons: `simulated:fixed=0.01:per_item=0.005:memory=4:bytes=100:found=3:files=1:control=/run/device`. With
`control` it misbehaves on demand, for as long as that file says `hang`, `fail`, `oom`, `nan` or `break`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consumer.models.batch_info import BatchInfo
from consumer.models.device import Device
from consumer.models.loader import Place
from consumer.models.manifest import Manifest, ModelEntry
from consumer.models.pool import ModelPool
from consumer.models.runner import AnyRunner, Prompt, Sought
from consumer.models.simulated import SimulatedBreak, SimulatedDevice, SimulatedOutOfMemory
from consumer.models.simulated_answers import answers, without_numbers
from consumer.models.waiting import EVEN, Shares
from consumer.models.weight_files import WeightCache
from pipeline_steps.errors import ModelUnavailable

NAME = "simulated"
_LOOK = 0.02
"""Seconds between two looks at the control file while it says `hang`."""


class Behaviour(BaseModel):
    """How a pretended device behaves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed: float = Field(0.0, ge=0)
    """Seconds a batch takes whatever its size."""
    per_item: float = Field(0.0, ge=0)
    """Seconds each item adds."""
    memory: int | None = Field(None, ge=0)
    """Items it has memory for; larger batches run out of it."""
    bytes: int = Field(0, ge=0)
    """What each model takes of `MODEL_MEMORY`."""
    found: int = Field(3, ge=0)
    """Things that are found on every picture."""
    files: bool = False
    """Whether models' files are fetched and checked, as they are for a real device."""
    control: Path | None = None
    """A file that may say `hang`, `fail`, `oom`, `nan` or `break`."""

    @classmethod
    def parse(cls, device: str) -> Behaviour:
        """Read a device's name.

        Raises:
            ModelUnavailable: it is not `simulated`, or an option is unknown or out of its bounds.
        """
        name, *options = device.split(":")
        if name != NAME:
            raise ModelUnavailable(f"device {device!r}: all devices are simulated, or none is")
        try:
            return cls.model_validate(dict(option.split("=", 1) for option in options))
        except ValidationError as error:
            wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_url=False))
            raise ModelUnavailable(f"device {device!r}: {wrong}") from error
        except ValueError as error:
            raise ModelUnavailable(
                f"device {device!r}: expected options as name=value, separated by colons"
            ) from error


class SimulatedFailure(RuntimeError):
    """The pretended device reports an error, as a GPU does whose kernel failed."""


class ObedientRunner:
    """Runs nothing: takes the time it is told to take, and answers."""

    def __init__(self, model: ModelEntry, behaviour: Behaviour) -> None:
        answer = answers(model.spec, behaviour.found, self)
        if answer is None:
            raise ModelUnavailable(f"model {model.name!r}: this worker runs no {model.kind} models")
        self._answer = answer
        self._most = model.max_batch
        self._behaviour = behaviour

    def costly(self, item: Any) -> bool:
        """Nothing is prepared."""
        del item
        return False

    def prepare(self, item: Any) -> Any:
        """Nothing to do; what is sought in a picture makes no difference."""
        return item.picture if isinstance(item, Sought) else item

    def bucket(self, ready: Any) -> Hashable:
        """Pictures share batches whatever their shape, and so do prompts."""
        return "prompts" if isinstance(ready, Prompt) else "pictures"

    def max_batch(self, bucket: Hashable) -> int:
        """As the manifest says."""
        del bucket
        return self._most

    def run(self, batch: Sequence[Any]) -> list[Any]:
        """Take the time, then answer or misbehave."""
        order = self._order_after_hanging()
        if order == "fail":
            raise SimulatedFailure("the simulated device failed")
        if order == "break":
            raise SimulatedBreak("the simulated device broke")
        told = self._behaviour
        time.sleep(told.fixed + told.per_item * len(batch))
        if order == "oom" or (told.memory is not None and len(batch) > told.memory):
            raise SimulatedOutOfMemory(f"{len(batch)} items, memory for {told.memory or 0}")
        answers = [self._answer(item) for item in batch]
        return [without_numbers(answer) for answer in answers] if order == "nan" else answers

    def warm_up(self) -> None:
        """Nothing to warm; a device that is told to hang or to fail does so here too."""
        if self._order_after_hanging() == "fail":
            raise SimulatedFailure("the simulated device failed")

    def _order_after_hanging(self) -> str:
        while (order := self._order()) == "hang":
            time.sleep(_LOOK)
        return order

    def _order(self) -> str:
        control = self._behaviour.control
        if control is None:
            return ""
        try:
            return control.read_text().strip()
        except FileNotFoundError:
            return ""


class _Loader:
    """Every model is there at once, or as soon as its file is."""

    def __init__(self, behaviour: Behaviour, manifest: Manifest, files: WeightCache | None) -> None:
        self._behaviour = behaviour
        self._manifest = manifest
        self._files = files

    async def load(self, model: ModelEntry, devices: int) -> Place:
        """Return what pretends to be the model."""
        del devices
        if self._files is not None:
            await self._files.fetch(self._manifest, model)

        def place(device: Device) -> AnyRunner:
            if isinstance(device, SimulatedDevice):
                device.used += self._behaviour.bytes
            return ObedientRunner(model, self._behaviour)

        return place


def simulated_pool(
    manifest: Manifest,
    devices: Sequence[str],
    *,
    on_batch: Callable[[BatchInfo], None] = lambda _: None,
    on_broken: Callable[[str], None] = lambda _: None,
    memory: int | None = None,
    shares: Shares = EVEN,
    cache: WeightCache | None = None,
) -> ModelPool:
    """Return a pool that pretends to have the manifest's models on these devices.

    Args:
        manifest: which models there are.
        devices: their names, with options.
        on_batch: told of every batch that ran.
        on_broken: told why a device answers nobody any more.
        memory: see `ModelPool`.
        shares: see `ModelPool`.
        cache: where models' files are fetched from, for devices with `files`.

    Raises:
        ModelUnavailable: a device is not a simulated one, or has an option that cannot be.
    """
    behaviours = [Behaviour.parse(device) for device in devices]
    if any(behaviour != behaviours[0] for behaviour in behaviours):
        raise ModelUnavailable(f"devices {', '.join(devices)}: simulated devices all behave alike")
    return ModelPool(
        manifest,
        [SimulatedDevice() for _ in devices],
        _Loader(behaviours[0], manifest, cache if behaviours[0].files else None),
        on_batch=on_batch,
        on_broken=on_broken,
        memory=memory,
        shares=shares,
    )
