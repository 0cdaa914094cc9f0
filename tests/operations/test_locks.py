"""What the image is built from: whole, hashed, and what pyproject.toml asks for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.command import ROOT
from tests.operations.dockerfile import stages
from tools.lock import HEAVY, CannotLock, build_requirements, locked_of, project_requirements, rendered

NAMES = ("torch.txt", "runtime.txt", "build.txt")
LINE = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[^\s]+) --hash=sha256:[0-9a-f]{64}  # for (?P<askers>.+)"
)


def text(lock: str) -> str:
    return (ROOT / "requirements" / lock).read_text()


def lines(lock: str) -> list[str]:
    return [line for line in text(lock).splitlines() if not line.startswith("#")]


def packages(*locks: str) -> dict[str, re.Match[str]]:
    """The packages of locks, by name."""
    found = [LINE.fullmatch(line) for lock in locks for line in lines(lock)]
    return {one["name"]: one for one in found if one is not None}


# ---------------------------------------------------------------------------- the files


@pytest.mark.parametrize("lock", NAMES)
def test_every_line_names_one_version_and_its_hash(lock: str) -> None:
    assert lines(lock)
    assert [line for line in lines(lock) if not LINE.fullmatch(line)] == []


@pytest.mark.parametrize("lock", NAMES)
def test_a_lock_is_for_the_dockerfiles_python(lock: str) -> None:
    python = re.search(r":(\d+\.\d+)", stages()["image"].base)

    assert python
    assert f"CPython {python[1]} on Linux, x86_64" in text(lock)


@pytest.mark.parametrize(
    ("locks", "wanted"),
    [(("torch.txt", "runtime.txt"), project_requirements()), (("build.txt",), build_requirements())],
    ids=["runtime", "build"],
)
def test_the_locks_hold_what_pyproject_asks_for(locks: tuple[str, ...], wanted: list[str]) -> None:
    locked = packages(*locks)
    unmet = []
    for one in map(Requirement, wanted):
        found = locked.get(str(canonicalize_name(one.name)))
        if found is None or not one.specifier.contains(found["version"]):
            unmet.append(f"{one}: the lock has {found and found['version']}")

    assert unmet == [], "run python -m tools.lock"


@pytest.mark.parametrize("locks", [("torch.txt", "runtime.txt"), ("build.txt",)], ids=["runtime", "build"])
def test_no_package_is_there_for_one_that_is_not(locks: tuple[str, ...]) -> None:
    locked = packages(*locks)
    asked = project_requirements() if "torch.txt" in locks else build_requirements()
    ours = {str(canonicalize_name(Requirement(one).name)) for one in asked}

    for name, found in locked.items():
        if found["askers"] == "this project":
            assert name in ours, f"{name} is not asked for any more: run python -m tools.lock"
        else:
            assert set(found["askers"].split(", ")) <= locked.keys()


def test_what_weighs_gigabytes_is_in_a_lock_of_its_own() -> None:
    heavy, light = packages("torch.txt"), packages("runtime.txt")

    assert {"torch", "torchvision", "nvidia-cudnn-cu13"} <= heavy.keys()
    assert [name for name in heavy if not HEAVY.fullmatch(name)] == []
    assert [name for name in light if HEAVY.fullmatch(name)] == []


def test_the_worker_s_own_tests_are_not_shipped() -> None:
    assert packages("torch.txt", "runtime.txt").keys() & {"pytest", "mypy", "ruff", "hypothesis"} == set()


# ---------------------------------------------------------------------------- how they are made


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"install": list(packages)}


def found(name: str = "Small_One", **changes: Any) -> dict[str, Any]:
    """A package as pip reports it."""
    return {
        "metadata": {"name": name, "version": "1.2", "requires_dist": changes.pop("needs", [])},
        "download_info": {
            "url": "https://packages.example/small_one-1.2-py3-none-any.whl",
            "archive_info": {"hashes": {"sha256": "ab" * 32}},
            **changes,
        },
    }


def test_a_package_is_locked_by_its_canonical_name_with_those_who_need_it() -> None:
    told = report(found("Zeta", needs=["small.one>=1", "absent; extra == 'more'"]), found())
    locked = locked_of(told, ["zeta"])

    assert [one.line() for one in locked] == [
        f"small-one==1.2 --hash=sha256:{'ab' * 32}  # for zeta",
        f"zeta==1.2 --hash=sha256:{'ab' * 32}  # for this project",
    ]
    assert rendered(locked).splitlines()[2:] == [one.line() for one in locked]


def test_who_always_needs_a_package_is_named_before_those_whose_extras_do() -> None:
    told = report(
        found(), found("always", needs=["small-one"]), found("extra", needs=["small-one; extra == 'x'"])
    )

    assert locked_of(told, [])[-1].wanted_by == ("always",)
    assert locked_of(report(told["install"][0], told["install"][2]), [])[-1].wanted_by == ("extra",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "file:///wheels/small_one-1.2-py3-none-any.whl"}, "in a folder of this machine"),
        ({"url": "https://packages.example/small_one-1.2.tar.gz"}, "no compiler"),
        ({"archive_info": {}}, "no sha256"),
    ],
)
def test_what_nobody_else_could_build_is_not_locked(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotLock, match=said):
        locked_of(report(found(**changes)), [])


def test_an_extra_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(CannotLock, match="--extra hief"):
        project_requirements(["hief"])
