"""What the parameters of many steps have in common: checks of models, classes and segment types."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches

from pipeline_steps.models import ModelKind, ModelSpec
from pipeline_steps.names import expected_one_of
from pipeline_steps.registry import Scope

Problems = Iterator[tuple[str, str]]


def model_problems(scope: Scope, parameter: str, name: str, *kinds: ModelKind) -> Problems:
    """Yield what is wrong with a parameter that names a model of one of `kinds`, and note that it is used."""
    scope.used.add(name)
    if scope.models is None:
        return
    spec = scope.models.get(name)
    suitable = [known.name for known in scope.models.values() if known.kind in kinds]
    if spec is None:
        yield parameter, f"no model is named {name!r}. {expected_one_of(name, suitable)}"
    elif spec.kind not in kinds:
        wanted = " or ".join(kind.value for kind in kinds)
        hint = expected_one_of(name, suitable)
        yield parameter, f"model {name!r} is of kind {spec.kind.value!r}, expected {wanted}. {hint}"


def class_problems(
    scope: Scope, parameter: str, model: str, classes: tuple[str, ...] | None, *kinds: ModelKind
) -> Problems:
    """Yield which of `classes` the model of one of `kinds` does not know."""
    spec = _meant(scope, model, kinds)
    if spec is None or classes is None:
        return
    for name in classes:
        if name not in spec.classes:
            yield (
                parameter,
                f"model {spec.name!r} knows no class {name!r}. {expected_one_of(name, spec.classes)}",
            )


def segment_type_problems(scope: Scope, parameter: str, segment_type: str | None) -> Problems:
    """Yield whether no segment seen here can have that label."""
    if segment_type is None or scope.segment_labels is None or segment_type in scope.segment_labels:
        return
    yield (
        parameter,
        f"no segment is ever {segment_type!r}. {expected_one_of(segment_type, scope.segment_labels)}",
    )


def model_classes(
    scope: Scope, model: str, chosen: tuple[str, ...] | None, *kinds: ModelKind
) -> frozenset[str] | None:
    """Return the labels a model's answers can have; None when the model is not known.

    A chosen label that the model does not know is a problem of its own, and may stand for any of the others.
    """
    spec = _meant(scope, model, kinds)
    if spec is None:
        return None
    return frozenset(spec.classes if chosen is None or not set(chosen) <= set(spec.classes) else chosen)


def _meant(scope: Scope, name: str, kinds: Collection[ModelKind]) -> ModelSpec | None:
    """Return the model of one of `kinds` which is meant; that its name is misspelt is told elsewhere."""
    if scope.models is None:
        return None
    spec = scope.models.get(name)
    if spec is not None:
        return spec if spec.kind in kinds else None
    suitable = [known.name for known in scope.models.values() if known.kind in kinds]
    close = get_close_matches(name, suitable, n=1, cutoff=0.8)
    return scope.models[close[0]] if close else None
