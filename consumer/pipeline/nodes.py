"""A parsed pipeline: every step found, every parameter checked, every input known to be there."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from contracts.pipeline import OnError
from pipeline_steps.artifact import Artifact
from pipeline_steps.artifacts import Crops, Detections, Image, Segments
from pipeline_steps.registry import Step, StepParams


@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a step with its parameters."""

    step: Step
    params: StepParams
    path: str
    number: int
    """Its place in the order of the definition; ids of what it writes are made from it."""
    needs: frozenset[type[Artifact]]
    """The artifacts without which it is not run."""
    timeout_s: float | None
    retries: int
    on_error: OnError
    id: str | None = None
    """The author's own name for it."""


@dataclass(frozen=True, slots=True)
class Chain:
    """One after the other."""

    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Side by side."""

    branches: tuple[Node, ...]
    path: str
    on_error: OnError
    min_success: float


@dataclass(frozen=True, slots=True)
class Chord:
    """A group, then a step."""

    group: Group
    callback: StepCall | None


@dataclass(frozen=True, slots=True)
class Map:
    """A body once per item."""

    over: type[Segments] | type[Crops] | type[Detections]
    body: Node
    path: str
    max_concurrency: int
    on_error: OnError
    min_success: float
    writes: frozenset[type[Artifact]]


Node: TypeAlias = StepCall | Chain | Group | Chord | Map


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A definition that can run."""

    root: Chain
    warnings: tuple[str, ...] = ()
    models: frozenset[str] = frozenset()
    """Those that its steps say they use."""

    def calls(self) -> Iterator[StepCall]:
        """Yield every step call, in the definition's order."""
        yield from _calls(self.root)

    @property
    def kind(self) -> Hashable:
        """What runs of equal length have in common, as far as it can be known before."""
        return tuple((call.step.name, call.params.model_dump_json()) for call in self.calls())

    @property
    def in_windows(self) -> bool:
        """Whether no step needs the whole picture at once; what a map cuts out of it would be read anew."""
        return not any(isinstance(node, Map) for node in _nodes(self.root)) and all(
            call.step.in_windows for call in self.calls() if Image in call.step.reads.values()
        )

    @property
    def only_shows(self) -> bool:
        """Whether all that is done with the picture is to show it to models, as a whole."""
        written = frozenset(kind for call in self.calls() for kind in call.step.writes)
        return not any(isinstance(node, Map) for node in _nodes(self.root)) and all(
            call.step.only_shows is not None and call.step.only_shows(call.params, written)
            for call in self.calls()
            if Image in call.step.reads.values()
        )

    def reads(self, kind: type[Artifact]) -> bool:
        """Tell whether some step reads that artifact, be it optionally."""
        return any(kind in call.step.reads.values() for call in self.calls()) or (
            any(isinstance(node, Map) for node in _nodes(self.root))
        )


def _calls(node: Node) -> Iterator[StepCall]:
    return (inner for inner in _nodes(node) if isinstance(inner, StepCall))


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    match node:
        case Chain(children=inner) | Group(branches=inner):
            for child in inner:
                yield from _nodes(child)
        case Chord(group=group, callback=callback):
            yield from _nodes(group)
            if callback:
                yield callback
        case Map(body=body):
            yield from _nodes(body)
        case StepCall():
            pass
