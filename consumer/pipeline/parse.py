"""From a definition to a pipeline in which every step can run, or to every reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from pydantic import JsonValue

from consumer.pipeline.definition import MAX_NODES
from consumer.pipeline.flow import GIVEN, Fact, Flow, joined
from consumer.pipeline.nodes import Chain, Chord, Group, Map, Node, Pipeline, StepCall
from consumer.pipeline.parameters import ParameterReader
from consumer.pipeline.problems import MAX_PROBLEMS, ROOT, Problem, nearest
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
from pipeline_steps.registry import Kinds, Scope, Step, StepRegistry

_OVER = {"segments": Segments, "crops": Crops, "detections": Detections}

Writes = Mapping[type[Artifact], Fact]


class InvalidPipeline(ValueError):
    """A pipeline that cannot run; `problems` lists every reason found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


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
        raise InvalidPipeline(list(parser.problems))
    warnings = [*parser.parameters.warnings(steps), *parser.warnings]
    return Pipeline(root, tuple(dict.fromkeys(warnings)), frozenset(parser.used))


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

    def check_numbers(self) -> None:
        """Refuse more calls than identities have room for: what was built in Python was never measured."""
        if self._numbers > MAX_NODES:
            self._problem("steps", f"{self._numbers} elements; at most {MAX_NODES} are allowed")

    def chain(self, definition: ChainDefinition, path: str, flow: Flow) -> tuple[Chain, Writes]:
        """Parse the elements in order, each seeing what those before it write."""
        children: list[Node] = []
        written: Writes = {}
        if not definition.steps:
            self.warnings.append(f"{_at(path, 'steps')}: empty, so nothing runs here")
        for i, element in enumerate(definition.steps):
            node, writes = self.element(element, _at(path, f"steps.{i}"), flow.then(written))
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
        return group, _maybe(joined(writes_of), definition.on_error == "skip" and definition.min_success < 1)

    def _chord(self, definition: ChordDefinition, path: str, flow: Flow) -> tuple[Chord, Writes]:
        group, gathered = self._group(definition.group, f"{path}.group", flow)
        if definition.callback is None:
            return Chord(group, None), gathered
        callback, writes = self._step(definition.callback, f"{path}.callback", flow.then(gathered))
        return Chord(group, callback), Flow(gathered).then(writes).facts

    def _map(self, definition: MapDefinition, path: str, flow: Flow) -> tuple[Map | None, Writes]:
        over = _OVER[definition.over]
        who = f"map over {definition.over!r}"
        self._check_input(over, path, flow, who)
        if over is not Crops:
            self._check_input(Image, path, flow, who)
        if self._map_depth == MAX_MAP_DEPTH:
            self._problem(path, f"maps are nested more than {MAX_MAP_DEPTH} deep")
            return None, {}
        self._map_depth += 1
        item = Fact(path, frozenset({self._next_number()}))
        body, writes = self.element(definition.body, f"{path}.body", flow.then({Image: item}))
        self._map_depth -= 1
        for kind, fact in writes.items():
            if not issubclass(kind, Mergeable):
                self._problem(
                    fact.path, f"writes {kind.__name__}, of which there can be only one; not inside a map"
                )
        skippable = definition.on_error == "skip" and definition.min_success < 1
        writes = _maybe(writes, skippable or _is_maybe(flow, over))
        if body is None:
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
        if definition.name not in self.steps:
            hint = nearest(definition.name, self.steps.names())
            self._problem(f"{path}.name", f"no step is named {definition.name!r}; {hint}")
            return None, {}
        step = self.steps[definition.name]
        number = self._next_number()
        scope = Scope(self.models, self._map_depth > 0, _labels(flow), self.used)
        params, problems = self.parameters.read(step, definition.kwargs, path, scope)
        self._found(*problems)
        needs = step.requires | (params.needs() if params else frozenset())
        for kind in sorted(needs, key=lambda kind: kind.__name__):
            self._check_input(kind, path, flow, step.name)
        self._check_time(definition, path)
        maybe = definition.on_error == "skip" or any(_is_maybe(flow, kind) for kind in needs)
        writes = self._writes(step, path, number, flow, maybe=maybe)
        if params is None:
            return None, writes
        if Segments in writes:
            labels = params.segment_labels(scope)
            writes[Segments] = replace(writes[Segments], labels=labels)
        call = StepCall(
            step,
            params,
            path,
            number,
            needs,
            definition.timeout_s,
            definition.retries,
            definition.on_error,
            definition.id,
        )
        return call, writes

    def _check_input(self, kind: type[Artifact], path: str, flow: Flow, who: str) -> None:
        fact = flow.get(kind)
        if fact is None:
            writers = [step.name for step in self.steps if kind in step.writes]
            hint = f" (steps that write it: {', '.join(writers)})" if writers else ""
            self._problem(path, f"{who} needs {kind.__name__}, which nothing before it writes{hint}")
            return
        for subject in flow.stale_subjects(kind):
            replaced_by = flow.facts[subject].path
            self._problem(
                path,
                f"{who} needs {kind.__name__}, but those of {fact.path} speak of {subject.__name__} "
                f"that {replaced_by} replaced",
            )

    def _check_time(self, definition: StepDefinition, path: str) -> None:
        worst = (definition.timeout_s or 0) * (definition.retries + 1)
        if worst > self.pipeline_timeout:
            self._problem(
                f"{path}.timeout_s",
                f"{definition.timeout_s:g} s, tried {definition.retries + 1} times, is longer than the "
                f"whole pipeline may take ({self.pipeline_timeout:g} s)",
            )

    def _writes(
        self, step: Step, path: str, number: int, flow: Flow, *, maybe: bool
    ) -> dict[type[Artifact], Fact]:
        origins = {kind: fact.origins for kind, fact in flow.facts.items()}
        for kind in step.writes:
            if kind not in step.refines or kind not in origins:
                origins[kind] = frozenset({number})
        return {
            kind: Fact(
                path,
                origins[kind],
                maybe,
                {subject: origins[subject] for subject in kind.subjects if subject in origins},
            )
            for kind in step.writes
        }

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers - 1

    def _problem(self, path: str, message: str) -> None:
        self._found(Problem(path, message))

    def _found(self, *problems: Problem) -> None:
        self.problems.update(dict.fromkeys(problems))
        if len(self.problems) > MAX_PROBLEMS:  # one long setting may be wrong anew for each of 512 steps
            named = list(self.problems)[:MAX_PROBLEMS]
            raise InvalidPipeline([*named, Problem(ROOT, "more is wrong than is named here")])


def _labels(flow: Flow) -> frozenset[str] | None:
    fact = flow.get(Segments)
    return fact.labels if fact else None


def _is_maybe(flow: Flow, kind: type[Artifact]) -> bool:
    fact = flow.get(kind)
    return fact is not None and fact.maybe


def _maybe(writes: Writes, maybe: bool) -> dict[type[Artifact], Fact]:
    return {kind: replace(fact, maybe=fact.maybe or maybe) for kind, fact in writes.items()}


def _at(path: str, place: str) -> str:
    return f"{path}.{place}" if path else place
