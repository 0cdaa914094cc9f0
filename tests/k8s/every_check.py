"""All checks together: ours, the schemas', and the doctor's."""

from __future__ import annotations

from collections.abc import Mapping

from tests.k8s import (
    checks_cloud,
    checks_models,
    checks_network,
    checks_pod,
    checks_scaling,
    checks_settings,
    schemas,
)
from tests.k8s.catalogue import OURS, problems
from tests.k8s.doctor import ASKED, wrong_by_the_doctor
from tests.k8s.manifests import Manifests

MODULES = (checks_cloud, checks_models, checks_network, checks_pod, checks_scaling, checks_settings, schemas)
"""Importing them adds their checks to the catalogue."""
NAMES = {*OURS, *(f"doctor: {check.id}" for check in ASKED)}


def failing(manifests: Manifests) -> Mapping[str, list[str]]:
    """Return what is wrong, by the names of the checks that say so."""
    found = {name: said for name, function in OURS.items() if (said := problems(function, manifests))}
    return {**found, **wrong_by_the_doctor(manifests)}
