"""What a parser knows of the artifacts at one place in a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pipeline_steps.artifact import Artifact, Cumulative

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


@dataclass(frozen=True, slots=True)
class Flow:
    """The artifacts available at one place."""

    facts: Mapping[type[Artifact], Fact] = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, kind: type[Artifact]) -> bool:
        return kind in self.facts

    def get(self, kind: type[Artifact]) -> Fact | None:
        """Return what is known of that artifact, if it is available."""
        return self.facts.get(kind)

    def then(self, writes: Mapping[type[Artifact], Fact]) -> Flow:
        """Return what is available after these writes; one that may fail leaves the earlier one in place."""
        merged = dict(self.facts)
        for kind, fact in writes.items():
            earlier = merged.get(kind)
            stays = earlier is not None and (fact.maybe or issubclass(kind, Cumulative))
            merged[kind] = _either(earlier, fact) if earlier is not None and stays else fact
        return Flow(MappingProxyType(merged))

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


def joined(branches: Iterable[Mapping[type[Artifact], Fact]]) -> dict[type[Artifact], Fact]:
    """Return what parallel branches write: certain where one of them writes it certainly."""
    result: dict[type[Artifact], Fact] = {}
    for branch in branches:
        for kind, fact in branch.items():
            result[kind] = _either(result[kind], fact) if kind in result else fact
    return result


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
    )
