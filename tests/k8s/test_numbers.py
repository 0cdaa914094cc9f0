"""The manifests agree with the code, with each other, and with what the doctor wants."""

from __future__ import annotations

import pytest

from tests.command import ROOT
from tests.k8s.catalogue import OURS, problems
from tests.k8s.doctor import wrong_by_the_doctor
from tests.k8s.every_check import MODULES
from tests.k8s.manifests import OVERLAYS, of_overlay


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("check", OURS)
def test_an_overlay_keeps_what_is_promised(check: str, overlay: str) -> None:
    assert problems(OURS[check], of_overlay(overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_doctor_would_have_nothing_changed(overlay: str) -> None:
    assert dict(wrong_by_the_doctor(of_overlay(overlay))) == {}


def test_every_module_of_checks_is_asked() -> None:
    files = {path.stem for path in (ROOT / "tests/k8s").glob("checks_*.py")}
    assert files <= {module.__name__.rpartition(".")[2] for module in MODULES}
