"""What a parser knows of the artifacts at one place in a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pipeline_steps.artifact import Artifact, Cumulative
from pipeline_steps.artifacts import Segments
from pipeline_steps.registry import Kinds, Step, StepRegistry

GIVEN = -1
"""The origin of what exists before the first step."""

Origins = frozenset[int]


@dataclass(frozen=True, slots=True)
class Fact:
    """One artifact that will have been written."""

    path: str
    """Which step writes it."""
    origins: Origins
    """The writes its things may come from; a step that only refines them adds none of its own."""
    maybe: bool = False
    """Whether a skipped failure may leave it unwritten."""
    about: Mapping[type[Artifact], Origins] = field(default_factory=dict)
    """The origins of its subjects when it was written."""
    labels: frozenset[str] | None = None
    """The labels its things can have, where that is known."""
    is_guess: bool = False
    """Whether it is written by what could not be read, and so is only not impossible."""


Writes = Mapping[type[Artifact], Fact]


@dataclass(frozen=True, slots=True)
class Flow:
    """The artifacts available at one place."""

    facts: Writes = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, kind: type[Artifact]) -> bool:
        return kind in self.facts

    def get(self, kind: type[Artifact]) -> Fact | None:
        """Return what is known of that artifact, if it is available."""
        return self.facts.get(kind)

    @property
    def labels(self) -> frozenset[str] | None:
        """The labels that segments seen here can have; None when unknown."""
        fact = self.facts.get(Segments)
        return fact.labels if fact else None

    def is_maybe(self, kind: type[Artifact]) -> bool:
        """Tell whether that artifact is available, but may have been skipped."""
        fact = self.facts.get(kind)
        return fact is not None and fact.maybe

    def then(self, writes: Writes) -> Flow:
        """Return what is available after these writes; one that may fail leaves the earlier one in place."""
        merged = dict(self.facts)
        for kind, fact in writes.items():
            earlier = merged.get(kind)
            stays = earlier is not None and (fact.maybe or issubclass(kind, Cumulative))
            merged[kind] = _either(earlier, fact) if earlier is not None and stays else fact
        return Flow(MappingProxyType(merged))

    def lacks(self, kind: type[Artifact], who: str, steps: StepRegistry) -> Iterator[str]:
        """Yield why `who` cannot read that artifact here."""
        fact = self.facts.get(kind)
        if fact is None:
            writers = [step.name for step in steps if kind in step.writes]
            hint = f" (steps that write it: {', '.join(writers)})" if writers else ""
            yield f"{who} needs {kind.__name__}, which nothing before it writes{hint}"
            return
        for subject in self.stale_subjects(kind):
            yield (
                f"{who} needs {kind.__name__}, but those of {fact.path} speak of {subject.__name__} "
                f"that {self.facts[subject].path} replaced"
            )

    def stale_subjects(self, kind: type[Artifact]) -> Iterable[type[Artifact]]:
        """Return the subjects of an available artifact, if every one of them was replaced since."""
        fact = self.facts[kind]
        if not kind.dies_with_subject or not fact.about:
            return ()
        replaced = [
            subject
            for subject, origins in fact.about.items()
            if subject in self.facts and origins.isdisjoint(self.facts[subject].origins)
        ]
        return replaced if len(replaced) == len(fact.about) else ()

    def written_by(self, step: Step, path: str, number: int, *, maybe: bool) -> dict[type[Artifact], Fact]:
        """Return what a step writes here."""
        origins = {kind: fact.origins for kind, fact in self.facts.items()}
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


def written_by_anything(steps: StepRegistry, path: str, number: int) -> Writes:
    """Return what an element that could not be read may write: whatever there is."""
    kinds: Kinds = frozenset(kind for step in steps for kind in (*step.writes, *step.reads.values()))
    return {kind: Fact(path, frozenset({number}), is_guess=True) for kind in kinds}


def joined(branches: Iterable[Writes]) -> dict[type[Artifact], Fact]:
    """Return what parallel branches write: certain where one of them writes it certainly."""
    result: dict[type[Artifact], Fact] = {}
    for branch in branches:
        for kind, fact in branch.items():
            result[kind] = _either(result[kind], fact) if kind in result else fact
    return result


def doubtful(writes: Writes, *, maybe: bool) -> dict[type[Artifact], Fact]:
    """Return the writes, left in doubt if `maybe`."""
    return {kind: replace(fact, maybe=fact.maybe or maybe) for kind, fact in writes.items()}


def _either(one: Fact, other: Fact) -> Fact:
    """Return what is known where things of both writes may be."""
    nothing: Origins = frozenset()
    labels = None if one.labels is None or other.labels is None else one.labels | other.labels
    return replace(
        other,
        origins=one.origins | other.origins,
        maybe=one.maybe and other.maybe,
        about={
            subject: one.about.get(subject, nothing) | other.about.get(subject, nothing)
            for subject in {**one.about, **other.about}
        },
        labels=labels,
        is_guess=one.is_guess and other.is_guess,
    )
