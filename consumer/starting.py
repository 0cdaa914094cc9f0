"""From exec to ready: what happens in which order, and what of it at the same time.

The interpreter does one thing at a time: on two threads, two imports take as long as one after the other.
What does run beside them is what needs no interpreter: a file that is read and hashed, bytes that arrive, a
network's arithmetic. So the models come first, and what they do without the interpreter is hidden behind the
imports that are left::

    interpreter    settings, manifest | torch                   | build | Pub/Sub, HTTP; connect | ready
    beside it                         | weights: fetch, sha256  |         fill, warm up          |

`models/opening.py` does the left half, `app.py` the right one; `models/lean_torch.py` and `lean_imports.py`
say what of large packages is left out. What a worker imports late for this reason, it imports here.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Gauge

from consumer.models.opening import open_models
from consumer.ops.metrics import Metrics
from consumer.ops.phases import Phases, since_exec
from consumer.settings import Settings

if TYPE_CHECKING:
    from consumer.app import RunningWorker

log = structlog.get_logger()


@asynccontextmanager
async def start_worker(settings: Settings, *, is_local: bool) -> AsyncIterator[RunningWorker]:
    """Give a worker that is ready to pull, in the shortest time; see `open_worker`, also for what it raises.

    Args:
        settings: what the environment says.
        is_local: whether callbacks to this machine are allowed.
    """
    phases = Phases()
    phases.add("interpreter", since_exec())
    async with AsyncExitStack() as running:
        with _uncollected():
            models = await running.enter_async_context(open_models(settings, phases=phases))
            with phases.time("imports"):
                app = await asyncio.to_thread(_import_app)
            worker = await running.enter_async_context(
                app.open_worker(settings, models=models, is_local=is_local)
            )
        phases.add("total", since_exec())
        _tell(phases.seconds, models.metrics)
        yield worker


def _tell(seconds: Mapping[str, float], metrics: Metrics) -> None:
    log.info("started", seconds={phase: round(spent, 3) for phase, spent in seconds.items()})
    gauge = Gauge(
        "mlworker_start_seconds",
        "How long the start took, and its parts.",
        ["phase"],
        registry=metrics.registry,
    )
    for phase, spent in seconds.items():
        gauge.labels(phase).set(spent)


def _import_app() -> ModuleType:
    app = import_module("consumer.app")
    _use_anyio()
    return app


def _use_anyio() -> None:
    """Have anyio, beneath the HTTP client, import what it imports when it is first used.

    The first callback would wait 30 ms for that.
    """
    anyio = import_module("anyio")
    import_module("anyio.streams.tls")
    anyio.run(anyio.sleep, 0)
    for name in ("connect_tcp", "fail_after", "create_memory_object_stream"):
        getattr(anyio, name)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage while the context lasts, and in what was made by then never again.

    What imports make, a million objects, is there to stay; looking through it takes a sixth of their time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
