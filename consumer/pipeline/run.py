"""One run of a pipeline: what its steps are given, and the report of how they went."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Literal

from contracts.failure import FailureClass
from contracts.result import Skipped, StepReport
from pipeline_steps.context import Deadline, JobInfo, StepContext, TenantStore
from pipeline_steps.errors import DeadlineExceeded, StepError
from pipeline_steps.models import Models

StepStatus = Literal["succeeded", "skipped", "not_run", "failed"]


class StepFailed(Exception):
    """A step raised; `path` says where in the pipeline, `__cause__` why."""

    def __init__(self, path: str, name: str, cause: Exception) -> None:
        super().__init__(f"{path} ({name}): {str(cause) or type(cause).__name__}")
        self.path = path
        self.name = name
        self.cause = cause

    @property
    def code(self) -> str:
        """The cause's stable name; an error that nobody foresaw is `internal_error`."""
        return self.root.code if isinstance(self.root, StepError) else "internal_error"

    @property
    def failure_class(self) -> FailureClass:
        """The cause's class."""
        return self.root.failure_class if isinstance(self.root, StepError) else FailureClass.INTERNAL

    @property
    def may_be_skipped(self) -> bool:
        """Whether `on_error: skip` covers it: the photo's trouble, not an outage that is everybody's."""
        if getattr(self.root, "is_outage", False):
            return False
        return self.failure_class not in (FailureClass.CONFIGURATION, FailureClass.SUPERSEDED)

    @property
    def root(self) -> Exception:
        """What went wrong first: a group that too few branches survived fails for a step's reason."""
        return self.cause.root if isinstance(self.cause, StepFailed) else self.cause


@dataclass
class Run:
    """What one run of a pipeline shares: services going in, the report coming out."""

    job: JobInfo
    models: Models
    store: TenantStore
    deadline: Deadline
    threads: Executor
    """Where plain `def` steps run."""
    steps: list[StepReport] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    _in_threads: dict[asyncio.Future[Any], str] = field(default_factory=dict)

    @property
    def is_partial(self) -> bool:
        """Whether something was allowed to fail, and did."""
        return bool(self.skipped) or any(step.status == "not_run" for step in self.steps)

    @property
    def lingering(self) -> frozenset[asyncio.Future[Any]]:
        """Threads that have not returned; after a timeout they still hold the job's slot."""
        return frozenset(future for future in self._in_threads if not future.done())

    def is_stuck(self, path: str) -> bool:
        """Tell whether a thread started by the step at `path` has not returned."""
        return any(where == path and not future.done() for future, where in self._in_threads.items())

    def context(self, path: str, number: int, items: tuple[int, ...], timeout_s: float | None) -> StepContext:
        """Return what the step at `path` is given."""
        return StepContext(
            self.job, self.models, self.store, self.deadline.sooner(timeout_s), path, number, items
        )

    async def in_thread(self, path: str, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """Run the plain function of the step at `path` in a thread, which is remembered until it returns."""
        call = functools.partial(copy_context().run, functools.partial(function, **arguments))
        future = asyncio.get_running_loop().run_in_executor(self.threads, call)
        self._in_threads[future] = path
        future.add_done_callback(lambda done: self._in_threads.pop(done, None))
        return await asyncio.shield(future)

    def check_time(self) -> None:
        """Raise `DeadlineExceeded` when the whole pipeline's time is over."""
        if self.deadline.remaining <= 0:
            raise DeadlineExceeded("the time for the whole pipeline is over (PIPELINE_TIMEOUT)")

    def report(
        self,
        path: str,
        name: str,
        status: StepStatus,
        seconds: float,
        *,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Write down how a step went."""
        self.steps.append(StepReport(path=path, id=id, name=name, ms=round(seconds * 1000, 3), status=status))

    def skip(self, path: str, items: tuple[int, ...], error: StepFailed) -> None:
        """Write down a failure that was allowed."""
        item = str(items[-1]) if items else None
        self.skipped.append(Skipped(path=path, item=item, error=f"{error.code}: {error}"))
