"""Running a parsed pipeline. Every element returns only what it wrote, never what it saw."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Coroutine, Iterator
from typing import Any, assert_never

from consumer.ops.tracing import code_of, happened, span
from consumer.pipeline.nodes import Chain, Chord, Group, Map, Node, StepCall
from consumer.pipeline.run import Run, StepFailed, StepStatus
from contracts.failure import FailureClass
from pipeline_steps.artifact import Artifact, Artifacts, Mergeable
from pipeline_steps.artifacts import Crops, Detections, Image, Segments
from pipeline_steps.context import MAX_MAP_ITEMS
from pipeline_steps.errors import DeadlineExceeded, InvalidInput

_RETRY_WAIT = 0.2
_RETRIED = frozenset({FailureClass.TRANSIENT, FailureClass.INTERNAL})


async def execute(node: Node, seen: Artifacts, run: Run) -> Artifacts:
    """Run `node` and return what it wrote.

    Args:
        node: a parsed pipeline's root.
        seen: the artifacts that exist before it.
        run: the services, the deadline, and the report that is filled in.

    Raises:
        StepFailed: a step failed and no `on_error: skip` covers it.
    """
    return await _Execution(run).element(node, seen, ())


class _Execution:
    def __init__(self, run: Run) -> None:
        self.run = run

    async def element(self, node: Node, seen: Artifacts, items: tuple[int, ...]) -> Artifacts:
        match node:
            case StepCall():
                return await self._step(node, seen, items)
            case Chain(children=children):
                written = Artifacts()
                for child in children:
                    written |= await self.element(child, seen | written, items)
                return written
            case Group():
                return await self._group(node, seen, items)
            case Chord(group=group, callback=callback):
                gathered = await self._group(group, seen, items)
                if callback is None:
                    return gathered
                return gathered | await self._step(callback, seen | gathered, items)
            case Map():
                return await self._map(node, seen, items)
            case _:
                assert_never(node)

    async def _group(self, group: Group, seen: Artifacts, items: tuple[int, ...]) -> Artifacts:
        branches = [self.element(branch, seen, items) for branch in group.branches]
        path = _run_path(group.path, items)
        results = await self._side_by_side(branches, len(branches), group, path, [items] * len(branches))
        return Artifacts.join([result for result in results if result is not None])

    async def _map(self, node: Map, seen: Artifacts, items: tuple[int, ...]) -> Artifacts:
        path = _run_path(node.path, items)
        things = seen.get(node.over)
        if things is None:
            self.run.report(path, "map", "not_run", 0)
            return Artifacts()
        pictures = _pictures(things, seen.get(Image), path)
        numbers = [(*items, i) for i in range(len(pictures))]
        bodies = [
            self.element(node.body, seen | Artifacts.of(picture), number)
            for picture, number in zip(pictures, numbers, strict=True)
        ]
        results = await self._side_by_side(bodies, node.max_concurrency, node, path, numbers)
        return _empty(node) | Artifacts.join([result for result in results if result is not None])

    async def _side_by_side(
        self,
        bodies: list[Coroutine[Any, Any, Artifacts]],
        concurrency: int,
        node: Group | Map,
        path: str,
        items: list[tuple[int, ...]],
    ) -> list[Artifacts | None]:
        """Run the bodies and return what each wrote, in declared order; None for one that was skipped.

        Raises:
            StepFailed: the first failure, if none may be skipped or too few succeeded. The rest is cancelled.
        """
        results: list[Artifacts | None] = [None] * len(bodies)
        waiting = iter(list(enumerate(bodies)))
        failures: list[StepFailed] = []

        async def take_turns() -> None:
            for i, body in waiting:
                try:
                    results[i] = await body
                except StepFailed as failure:
                    if node.on_error != "skip" or not self._may_skip(failure):
                        raise
                    failures.append(failure)
                    self.run.skip(failure.path, items[i], failure)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(concurrency, len(bodies))):
                    tasks.create_task(take_turns())
        except ExceptionGroup as group:
            first = _first(group)
            raise first from first.__cause__
        finally:
            for _, body in waiting:
                body.close()
        succeeded = len(bodies) - len(failures)
        if failures and succeeded < node.min_success * len(bodies):
            raise StepFailed(
                path,
                f"{succeeded} of {len(bodies)} succeeded, min_success is {node.min_success:g}",
                failures[0],
            ) from failures[0]
        return results

    async def _step(self, call: StepCall, seen: Artifacts, items: tuple[int, ...]) -> Artifacts:
        path = _run_path(call.path, items)
        if not call.needs <= seen.kinds():
            self.run.report(path, call.step.name, "not_run", 0, id=call.id)
            return Artifacts()
        started = time.perf_counter()
        try:
            with span(f"step {call.step.name}", step=call.step.name, path=path):
                written = await self._tries(call, seen, path, items)
        except StepFailed as failure:
            skipped = call.on_error == "skip" and self._may_skip(failure)
            status: StepStatus = "skipped" if skipped else "failed"
            self.run.report(path, call.step.name, status, time.perf_counter() - started, id=call.id)
            if not skipped:
                raise
            self.run.skip(path, items, failure)
            return Artifacts()
        self.run.report(path, call.step.name, "succeeded", time.perf_counter() - started, id=call.id)
        return written

    def _may_skip(self, failure: StepFailed) -> bool:
        # Once the whole pipeline's time is over nothing more can run: a failure, not a partial result.
        return failure.may_be_skipped and self.run.deadline.remaining > 0

    async def _tries(self, call: StepCall, seen: Artifacts, path: str, items: tuple[int, ...]) -> Artifacts:
        for retry in range(call.retries + 1):
            try:
                return await self._call(call, seen, path, items)
            except Exception as error:
                failure = StepFailed(path, call.step.name, error)
                # A thread that did not return may still be writing: nothing is started beside it.
                stuck = self.run.is_stuck(path)
                if retry == call.retries or stuck or failure.failure_class not in _RETRIED:
                    raise failure from error
                happened("tried_again", code=code_of(failure))
                await asyncio.sleep(min(_RETRY_WAIT * 2**retry, max(0.0, self.run.deadline.remaining)))
        raise AssertionError("a step is tried at least once")

    async def _call(self, call: StepCall, seen: Artifacts, path: str, items: tuple[int, ...]) -> Artifacts:
        self.run.check_time()
        step = call.step
        context = self.run.context(path, call.number, items, call.timeout_s)
        # Whatever the step's signature names: it was checked when the step was registered.
        arguments: dict[str, Any] = {argument: seen.get(kind) for argument, kind in step.reads.items()}
        if step.params_argument:
            arguments[step.params_argument] = call.params
        if step.context_argument:
            arguments[step.context_argument] = context
        try:
            async with asyncio.timeout(context.deadline.remaining):
                if inspect.iscoroutinefunction(step.run):
                    result = await step.run(**arguments)
                else:
                    result = await self.run.in_thread(path, step.run, **arguments)
        except TimeoutError as error:
            if context.deadline.remaining > 0:
                raise  # the step's own time-out of something smaller
            self.run.check_time()
            raise DeadlineExceeded(f"not done within its timeout_s of {call.timeout_s:g} s") from error
        return _checked(call, result)


def _checked(call: StepCall, result: Any) -> Artifacts:
    """Return what the step wrote, if it is what its signature declares."""
    written = () if result is None else result if isinstance(result, tuple) else (result,)
    if [type(artifact) for artifact in written] != list(call.step.writes):
        declared = ", ".join(kind.__name__ for kind in call.step.writes) or "nothing"
        returned = ", ".join(type(artifact).__name__ for artifact in written) or "nothing"
        raise TypeError(f"the step declares that it writes {declared}, but returned {returned}")
    return Artifacts.of(*written)


def _pictures(things: Segments | Crops | Detections, image: Image | None, path: str) -> list[Image]:
    """Return what a map's body sees as its image, for each thing."""
    if len(things) > MAX_MAP_ITEMS:
        raise StepFailed(
            path, "map", InvalidInput(f"{len(things)} items; a map takes at most {MAX_MAP_ITEMS}")
        )
    if isinstance(things, Crops):
        return list(things.image)
    if image is None:
        raise StepFailed(path, "map", InvalidInput("there is no image to cut from"))
    return [image.crop(box) for box in things.xyxy]


def _empty(node: Map) -> Artifacts:
    """Return what a map over no items writes: no rows, rather than nothing at all."""
    empty: list[Artifact] = [kind.merge(()) for kind in node.writes if issubclass(kind, Mergeable)]
    return Artifacts.of(*empty)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error of side-by-side tasks, nested groups opened."""
    return next(_leaves(group))


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _run_path(path: str, items: tuple[int, ...]) -> str:
    """Return the path with each map's item in it: `steps.2.body` becomes `steps.2.map[3].body`."""
    parts = path.split(".")
    for item in items:
        parts[parts.index("body")] = f"map[{item}].body"
    return ".".join(parts)
