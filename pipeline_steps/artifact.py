"""What steps read and write, and how two writes of the same kind combine.

One artifact of each type exists at a time. In sequence a later write replaces the earlier one; in parallel,
two branches that write the same plain artifact are a mistake found when the pipeline is parsed. `Mergeable`
and `Cumulative` relax those two rules. `artifacts.py` holds the artifacts themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = npt.NDArray[np.int64]
NOTHING = 0
"""The id that no thing has: a detection outside every segment, say."""


class Artifact:
    """A typed value that one step writes and later steps read."""

    subjects: ClassVar[tuple[type[Artifact], ...]] = ()
    """The kinds of things this artifact speaks about, by their ids."""
    dies_with_subject: ClassVar[bool] = True
    """Whether a row goes when what it speaks of is replaced; else it only forgets it."""

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Return this artifact without what it says of things not `alive`, and how much was dropped."""
        del alive
        return self, 0


class Mergeable(Artifact, ABC):
    """An artifact that parallel branches may both write."""

    @classmethod
    @abstractmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Combine `parts`, in the order the branches are declared; no parts give the empty one."""


class Cumulative(Mergeable, ABC):
    """A mergeable artifact whose later writes add to earlier ones."""


A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True, eq=False)
class Rows:
    """Parallel arrays: row `i` of every field speaks of the same thing.

    Fields are numpy arrays or tuples of one length. Frozen: nobody writes into them.
    """

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{type(self).__name__} needs columns of one length, got {lengths}")

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Self:
        """Return the chosen rows: a boolean per row, or row numbers in the order wanted."""
        numbers = np.arange(len(self))[rows]
        return replace(self, **{f.name: _take(getattr(self, f.name), numbers) for f in fields(self)})

    @classmethod
    def none(cls) -> Self:
        """Return no rows, with each column's type; a class whose branches may all be empty says how."""
        raise TypeError(f"{cls.__name__} does not say what it is without rows: define `none`")

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, in order."""
        if not parts:
            return cls.none()
        return cls(**{f.name: _join([getattr(part, f.name) for part in parts]) for f in fields(cls)})


@dataclass(frozen=True, eq=False)
class Things(Rows):
    """Rows with an identity: the first column is `id`, unique within the artifact."""

    id: Ids

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts; a thing that two of them hold is kept once, where it first appears."""
        rows = cls.joined(parts)
        _, first = np.unique(rows.id, return_index=True)
        return rows if len(first) == len(rows) else rows.take(np.sort(first))


@dataclass(frozen=True)
class Artifacts:
    """An immutable set of artifacts, at most one of each type."""

    _by_type: Mapping[type[Artifact], Artifact] = field(default_factory=lambda: MappingProxyType({}))
    stale: int = 0
    """Rows dropped because what they spoke of was replaced."""

    @classmethod
    def of(cls, *artifacts: Artifact) -> Artifacts:
        """Return a set of these artifacts, each of another type."""
        return cls(MappingProxyType({type(artifact): artifact for artifact in artifacts}))

    def get(self, kind: type[A]) -> A | None:
        """Return the artifact of that type, if there is one."""
        return cast("A | None", self._by_type.get(kind))

    def kinds(self) -> frozenset[type[Artifact]]:
        """Return the types held."""
        return frozenset(self._by_type)

    def __iter__(self) -> Iterator[Artifact]:
        return iter(self._by_type.values())

    def __or__(self, later: Artifacts) -> Artifacts:
        """Return these artifacts, then `later`'s writes."""
        combined = dict(self._by_type)
        for artifact in later:
            kind, earlier = type(artifact), combined.get(type(artifact))
            if isinstance(artifact, Cumulative) and earlier is not None:
                combined[kind] = type(artifact).merge([cast(Cumulative, earlier), artifact])
            else:
                combined[kind] = artifact
        return Artifacts._consistent(combined, self.stale + later.stale, later.kinds())

    @classmethod
    def join(cls, branches: Sequence[Artifacts]) -> Artifacts:
        """Return what parallel branches wrote, merged in the order they are declared."""
        writes: dict[type[Artifact], list[Artifact]] = {}
        for branch in branches:
            for artifact in branch:
                writes.setdefault(type(artifact), []).append(artifact)
        merged = {kind: _merge(kind, parts) for kind, parts in writes.items()}
        return cls._consistent(merged, sum(branch.stale for branch in branches), frozenset(merged))

    @classmethod
    def _consistent(
        cls, by_type: dict[type[Artifact], Artifact], stale: int, changed: frozenset[type[Artifact]]
    ) -> Artifacts:
        """Drop what is said of things that are gone; only what is `changed`, or speaks of it, is looked at.

        What lost rows may itself have been spoken of, hence again, until nothing more is lost.
        """
        for _ in range(len(by_type)):
            alive = {kind: thing.id for kind, thing in by_type.items() if isinstance(thing, Things)}
            lost: set[type[Artifact]] = set()
            for kind, artifact in by_type.items():
                if any(
                    subject in alive and not changed.isdisjoint({kind, subject}) for subject in kind.subjects
                ):
                    by_type[kind], dropped = artifact.without_stale(alive)
                    stale += dropped
                    if dropped:
                        lost.add(kind)
            if not lost:
                break
            changed = frozenset(lost)
        return cls(MappingProxyType(by_type), stale)


def living(ids: Ids, kind: type[Artifact], alive: Mapping[type[Artifact], Ids]) -> npt.NDArray[np.bool_]:
    """Return which of `ids` name a thing that exists; those that name nothing count as living."""
    if kind not in alive:
        return np.ones(len(ids), dtype=np.bool_)
    found: npt.NDArray[np.bool_] = np.isin(ids, alive[kind]) | (ids == NOTHING)
    return found


def _merge(kind: type[Artifact], parts: list[Artifact]) -> Artifact:
    if len(parts) == 1:
        return parts[0]
    if not issubclass(kind, Mergeable):
        raise TypeError(f"two branches wrote {kind.__name__}, which cannot be merged")
    return kind.merge(cast("list[Mergeable]", parts))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        # Text as wide as its longest word has another type when that word is gone, and still says the same.
        same_type = a.dtype == b.dtype or a.dtype.kind == b.dtype.kind == "U"
        return same_type and bool(np.array_equal(a, b))
    return bool(a == b)


def _take(column: Any, numbers: npt.NDArray[np.intp]) -> Any:
    return column[numbers] if isinstance(column, np.ndarray) else tuple(column[i] for i in numbers)


def _join(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return tuple(item for column in columns for item in column)
