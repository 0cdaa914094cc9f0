"""What a parser knows of the artifacts at one place in a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pipeline_steps.artifact import Artifact


@dataclass(frozen=True, slots=True)
class Fact:
    """One artifact that will have been written."""

    path: str
    """Which step writes it."""
    version: int
    """Changes when the things in it are replaced; a step that only refines them keeps it."""
    maybe: bool = False
    """Whether a skipped failure may leave it unwritten."""
    about: Mapping[type[Artifact], int] = field(default_factory=dict)
    """The versions of its subjects when it was written."""
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
        """Return what is available after these writes; one that may fail leaves an earlier one certain."""
        merged = dict(self.facts)
        for kind, fact in writes.items():
            earlier = merged.get(kind)
            certain = earlier is not None and not earlier.maybe
            merged[kind] = replace(fact, maybe=False) if fact.maybe and certain else fact
        return Flow(MappingProxyType(merged))

    def stale_subjects(self, kind: type[Artifact]) -> Iterable[type[Artifact]]:
        """Return the subjects of an available artifact, if every one of them was replaced since."""
        fact = self.facts[kind]
        if not kind.dies_with_subject or not fact.about:
            return ()
        replaced = [
            subject
            for subject, version in fact.about.items()
            if subject in self.facts and self.facts[subject].version != version
        ]
        return replaced if len(replaced) == len(fact.about) else ()


def joined(branches: Iterable[Mapping[type[Artifact], Fact]]) -> dict[type[Artifact], Fact]:
    """Return what parallel branches write: certain where one of them writes it certainly."""
    result: dict[type[Artifact], Fact] = {}
    for branch in branches:
        for kind, fact in branch.items():
            other = result.get(kind)
            if other is None:
                result[kind] = fact
                continue
            labels = (
                other.labels | fact.labels if other.labels is not None and fact.labels is not None else None
            )
            result[kind] = replace(
                fact,
                version=max(fact.version, other.version),
                maybe=fact.maybe and other.maybe,
                labels=labels,
            )
    return result
