"""From a definition to a pipeline in which every step can run, or to every reason why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import assert_never

from pydantic import JsonValue

from consumer.pipeline.flow import GIVEN, Fact, Flow, Writes, doubtful, joined, written_by_anything
from consumer.pipeline.limits import MAX_NODES
from consumer.pipeline.nodes import Chain, Chord, Group, Map, Node, Pipeline, StepCall
from consumer.pipeline.parameters import ParameterReader, common_needs, possible_labels
from consumer.pipeline.problems import MAX_PROBLEMS, ROOT, Problem, at, nearest, surely
from consumer.pipeline.second_look import Unread
from contracts.pipeline import (
    ChainDefinition,
    ChordDefinition,
    ElementDefinition,
    GroupDefinition,
    MapDefinition,
    PipelineDefinition,
    StepDefinition,
)
from pipeline_steps.artifact import Artifact, Mergeable
from pipeline_steps.artifacts import Crops, Detections, Image, Segments
from pipeline_steps.context import MAX_MAP_DEPTH
from pipeline_steps.models import ModelCatalogue
from pipeline_steps.registry import Kinds, Scope, Step, StepParams, StepRegistry

_OVER = {"segments": Segments, "crops": Crops, "detections": Detections}


class InvalidPipeline(ValueError):
    """A pipeline that cannot run; `problems` lists every reason found."""

    def __init__(self, problems: list[Problem], warnings: Iterable[str] = ()) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
        self.warnings = tuple(dict.fromkeys(warnings))


def parse(
    definition: PipelineDefinition,
    steps: StepRegistry,
    *,
    given: Kinds = frozenset({Image}),
    settings: Mapping[str, JsonValue] | None = None,
    models: ModelCatalogue | None = None,
    pipeline_timeout: float = 1800.0,
) -> Pipeline:
    """Turn a definition into a pipeline in which every step can run.

    Of what is wrong every problem is told, and none that is only the consequence of another.

    Args:
        definition: what the message carries.
        steps: the steps it may name.
        given: the artifacts that exist before the first step.
        settings: defaults for the parameters that declare to read them.
        models: the manifest's models; None leaves what concerns them unchecked.
        pipeline_timeout: seconds the whole run may take.

    Raises:
        InvalidPipeline: with every problem, each with its path.
    """
    given_settings = {name: value for name, value in (settings or {}).items() if value is not None}
    parser = _Parser(steps, ParameterReader(given_settings), models, pipeline_timeout)
    flow = Flow({kind: Fact("the message", frozenset({GIVEN})) for kind in given})
    root, _ = parser.chain(definition, "", flow)
    parser.check_numbers()
    if parser.problems:
        raise InvalidPipeline(list(parser.problems), parser.all_warnings())
    return Pipeline(root, tuple(dict.fromkeys(parser.all_warnings())), frozenset(parser.used))


class _Parser:
    def __init__(
        self,
        steps: StepRegistry,
        parameters: ParameterReader,
        models: ModelCatalogue | None,
        pipeline_timeout: float,
    ) -> None:
        self.steps = steps
        self.parameters = parameters
        self.models = models
        self.pipeline_timeout = pipeline_timeout
        self.problems: dict[Problem, None] = {}
        self.warnings: list[str] = []
        self.used: set[str] = set()
        self._map_depth = 0
        self._numbers = 0

    def all_warnings(self) -> list[str]:
        """Return what is odd about the settings, then about the elements."""
        return [*self.parameters.warnings(self.steps), *self.warnings]

    def check_numbers(self) -> None:
        """Refuse more calls than identities have room for: what was built in Python was never measured."""
        if self._numbers > MAX_NODES:
            self._problem("steps", f"{self._numbers} elements; at most {MAX_NODES} are allowed")

    def chain(self, definition: ChainDefinition, path: str, flow: Flow) -> tuple[Chain, Writes]:
        """Parse the elements in order, each seeing what those before it write."""
        children: list[Node] = []
        written: Writes = {}
        if not definition.steps:
            self.warnings.append(f"{at(path, 'steps')}: empty, so nothing runs here")
        for i, element in enumerate(definition.steps):
            node, writes = self.element(element, at(path, f"steps.{i}"), flow.then(written))
            written = Flow(written).then(writes).facts
            if node is not None:
                children.append(node)
        return Chain(tuple(children)), written

    def element(self, definition: ElementDefinition, path: str, flow: Flow) -> tuple[Node | None, Writes]:
        """Parse one element and return what it writes."""
        match definition:
            case StepDefinition():
                return self._step(definition, path, flow)
            case GroupDefinition():
                return self._group(definition, path, flow)
            case ChordDefinition():
                return self._chord(definition, path, flow)
            case MapDefinition():
                return self._map(definition, path, flow)
            case ChainDefinition():
                return self.chain(definition, path, flow)
            case _:
                assert_never(definition)

    def _group(self, definition: GroupDefinition, path: str, flow: Flow) -> tuple[Group, Writes]:
        branches: list[Node] = []
        writes_of: list[Writes] = []
        written: dict[type[Artifact], str] = {}
        if not definition.steps:
            self.warnings.append(f"{path}.steps: empty, so nothing runs here")
        for i, element in enumerate(definition.steps):
            node, writes = self.element(element, f"{path}.steps.{i}", flow)
            for kind, fact in writes.items():
                if fact.is_guess:
                    continue
                if kind in written and not issubclass(kind, Mergeable):
                    self._problem(
                        path,
                        f"two branches write {kind.__name__} ({written[kind]} and {fact.path}); "
                        "put one after the other, or let one branch do it",
                    )
                written.setdefault(kind, fact.path)
            writes_of.append(writes)
            if node is not None:
                branches.append(node)
        group = Group(tuple(branches), path, definition.on_error, definition.min_success)
        maybe = definition.on_error == "skip" and definition.min_success < 1
        return group, doubtful(joined(writes_of), maybe=maybe)

    def _chord(self, definition: ChordDefinition, path: str, flow: Flow) -> tuple[Chord | None, Writes]:
        # Of a wrong chord the second look may have made something else of either, to be checked as that.
        group, gathered = self.element(definition.group, f"{path}.group", flow)
        callback, writes = None, gathered
        if definition.callback is not None:
            callback, own = self.element(definition.callback, f"{path}.callback", flow.then(gathered))
            writes = Flow(gathered).then(own).facts
        if not isinstance(group, Group) or not isinstance(callback, StepCall | None):
            return None, writes
        return Chord(group, callback), writes

    def _map(self, definition: MapDefinition, path: str, flow: Flow) -> tuple[Map | None, Writes]:
        over = _OVER.get(definition.over)  # None: it could not be read
        who = f"map over {definition.over!r}"
        if over is not None:
            self._check_input(over, path, flow, who)
        if over is not None and over is not Crops:
            self._check_input(Image, path, flow, who)
        if self._map_depth == MAX_MAP_DEPTH:
            self._problem(path, f"maps are nested more than {MAX_MAP_DEPTH} deep")
        self._map_depth += 1
        item = Fact(path, frozenset({self._next_number()}))
        body, writes = self.element(definition.body, f"{path}.body", flow.then({Image: item}))
        self._map_depth -= 1
        for kind, fact in writes.items():
            if not issubclass(kind, Mergeable) and not fact.is_guess:
                self._problem(
                    fact.path, f"writes {kind.__name__}, of which there can be only one; not inside a map"
                )
        skippable = definition.on_error == "skip" and definition.min_success < 1
        writes = doubtful(writes, maybe=skippable or over is None or flow.is_maybe(over))
        if body is None or over is None:
            return None, writes
        node = Map(
            over,
            body,
            path,
            definition.max_concurrency,
            definition.on_error,
            definition.min_success,
            frozenset(writes),
        )
        return node, writes

    def _step(self, definition: StepDefinition, path: str, flow: Flow) -> tuple[StepCall | None, Writes]:
        if definition.name in self.steps.ignored:
            self.warnings.append(
                f"{path}: {definition.name} is ignored: {self.steps.ignored[definition.name]}"
            )
            return None, {}
        number = self._next_number()
        step = self._named(definition.name, path)
        if step is None:
            return None, written_by_anything(self.steps, path, number)
        scope = Scope(self.models, self._map_depth > 0, flow.labels, self.used)
        versions: tuple[StepParams, ...] = ()
        if not isinstance(definition, Unread):
            versions, problems = self.parameters.read(step, definition.kwargs, path, scope)
            self._found(*problems)
        needs = step.requires | common_needs(versions)
        for kind in sorted(needs, key=lambda kind: kind.__name__):
            self._check_input(kind, path, flow, step.name)
        self._check_time(definition, path)
        maybe = definition.on_error == "skip" or any(map(flow.is_maybe, needs))
        writes = flow.written_by(step, path, number, maybe=maybe)
        if Segments in writes:
            writes[Segments] = replace(writes[Segments], labels=possible_labels(versions, scope))
        if not versions:
            return None, writes
        call = StepCall(
            step,
            versions[0],
            path,
            number,
            needs,
            definition.timeout_s,
            definition.retries,
            definition.on_error,
            definition.id,
        )
        return call, writes

    def _named(self, name: str, path: str) -> Step | None:
        """Return the step of that name; of a misspelt one, the step that was surely meant."""
        if name in self.steps:
            return self.steps[name]
        if not name:
            return None  # it could not be read, and that was told
        known = self.steps.names()
        self._problem(f"{path}.name", f"no step is named {name!r}; {nearest(name, known)}")
        meant = surely(name, known)
        return None if meant is None else self.steps[meant]

    def _check_input(self, kind: type[Artifact], path: str, flow: Flow, who: str) -> None:
        for message in flow.lacks(kind, who, self.steps):
            self._problem(path, message)

    def _check_time(self, definition: StepDefinition, path: str) -> None:
        worst = (definition.timeout_s or 0) * (definition.retries + 1)
        if worst > self.pipeline_timeout:
            self._problem(
                f"{path}.timeout_s",
                f"{definition.timeout_s:g} s, tried {definition.retries + 1} times, is longer than the "
                f"whole pipeline may take ({self.pipeline_timeout:g} s)",
            )

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _problem(self, path: str, message: str) -> None:
        self._found(Problem(path, message))

    def _found(self, *problems: Problem) -> None:
        self.problems.update(dict.fromkeys(problems))
        if len(self.problems) > MAX_PROBLEMS:  # one long setting may be wrong anew for each of 512 steps
            named = list(self.problems)[:MAX_PROBLEMS]
            more = Problem(ROOT, "more is wrong than is named here")
            raise InvalidPipeline([*named, more], self.all_warnings())
