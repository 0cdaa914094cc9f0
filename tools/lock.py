"""Write what the image is built from, each package with its version and hash: `python -m tools.lock`.

pip works the whole set out from the metadata of packages alone (`--dry-run --report`): nothing of them is
downloaded or installed. Three files come of it, for the three places of the Dockerfile that install:

- `requirements/torch.txt`: torch and the libraries of CUDA, the gigabytes, in a layer of their own;
- `requirements/runtime.txt`: everything else that `mlworker run` imports;
- `requirements/build.txt`: what makes a wheel of this project.

Versions are those of the environment this runs in, so that what the tests ran with is what is shipped; with
`--upgrade` they are the newest that pyproject.toml allows: run the tests with them before committing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
HEAVY = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.*")
"""Packages that are counted in hundreds of megabytes, or belong to one that is."""
OLDEST_PIP = Version("25.1")
"""Before it, a dry run with `fast-deps` fetched every package to its end all the same."""
HEADER = """\
# Written by `python -m tools.lock`; change pyproject.toml and run that again.
# For CPython {python} on Linux, {machine}: one file of each package. The set is whole: --no-deps.
"""


class CannotLock(Exception):
    """The set cannot be worked out here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of the set."""

    name: str
    version: str
    sha256: str
    wanted_by: tuple[str, ...]
    """Names of the packages that ask for it; empty: this project does itself."""

    def line(self) -> str:
        """Return the line of the lock."""
        said = ", ".join(self.wanted_by) or "this project"
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}  # for {said}"


def project_requirements(extras: Iterable[str] = ()) -> list[str]:
    """Return what pyproject.toml says the worker needs.

    Args:
        extras: names of its optional sets that are wanted too.
    """
    project = _pyproject()["project"]
    wanted: list[str] = list(project["dependencies"])
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            raise CannotLock(f"--extra {extra}: pyproject.toml has no such optional dependencies")
        wanted += project["optional-dependencies"][extra]
    return wanted


def build_requirements() -> list[str]:
    """Return what pyproject.toml says a wheel of the project is made with."""
    return list(_pyproject()["build-system"]["requires"])


def locked_of(report: Mapping[str, Any], wanted: Iterable[str]) -> list[Locked]:
    """Return the packages of pip's installation report, by name.

    Raises:
        CannotLock: a package would come from a folder, or without a hash, or from its sources.
    """
    ours = {canonicalize_name(Requirement(each).name) for each in wanted}
    askers = _askers(report)
    locked = []
    for one in report["install"]:
        name, url = str(canonicalize_name(one["metadata"]["name"])), str(one["download_info"]["url"])
        sha256 = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if url.startswith("file:"):
            raise CannotLock(f"{name}: found in a folder of this machine; unset PIP_FIND_LINKS and the like")
        if not url.partition("#")[0].endswith(".whl"):
            raise CannotLock(f"{name}: only its sources are published; the image has no compiler")
        if sha256 is None:
            raise CannotLock(f"{name}: the package index tells no sha256 of it")
        said = () if name in ours else askers.get(name, ())
        locked.append(Locked(name, one["metadata"]["version"], sha256, said))
    return sorted(locked, key=lambda one: one.name)


def _askers(report: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return who asks for each package: those that always do, or else those whose extras do."""
    always: dict[str, set[str]] = {}
    for_extras: dict[str, set[str]] = {}
    for one in report["install"]:
        asker = str(canonicalize_name(one["metadata"]["name"]))
        for asked in map(Requirement, one["metadata"].get("requires_dist", [])):
            is_always = asked.marker is None or asked.marker.evaluate({"extra": ""})
            found = always if is_always else for_extras
            found.setdefault(str(canonicalize_name(asked.name)), set()).add(asker)
    return {name: tuple(sorted(who - {name})) for name, who in (for_extras | always).items()}


def rendered(locked: Iterable[Locked]) -> str:
    """Return the text of a lock."""
    header = HEADER.format(python="{}.{}".format(*sys.version_info[:2]), machine=platform.machine())
    return header + "".join(f"{one.line()}\n" for one in locked)


def resolve(wanted: Sequence[str], constraints: Iterable[str]) -> dict[str, Any]:
    """Return pip's report of what it would install into an empty environment."""
    with tempfile.TemporaryDirectory() as folder:
        wish, limits, report = (Path(folder) / name for name in ("wish.txt", "limits.txt", "report.json"))
        wish.write_text("\n".join(wanted))
        limits.write_text("\n".join(constraints))
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--only-binary", ":all:", "--use-feature", "fast-deps", "--report", str(report),
            "--constraint", str(limits), "--requirement", str(wish),
        ]  # fmt: skip
        done = subprocess.run(command, check=False, env={**os.environ, "PIP_NO_COLOR": "1"})  # noqa: S603
        if done.returncode:
            raise CannotLock("pip found no set of packages; it says above why")
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def installed_here() -> list[str]:
    """Return constraints: the versions of this environment."""
    return sorted(
        f"{one.name}=={Version(one.version).public}"
        for one in distributions()
        if canonicalize_name(one.name) not in ("mlworker", "pip", "setuptools", "wheel")
    )


def main() -> int:
    """Write the locks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest versions, not those in use here"
    )
    parser.add_argument("--extra", action="append", default=[], help="optional dependencies to include: heif")
    options = parser.parse_args()
    try:
        _check_here()
        FOLDER.mkdir(exist_ok=True)
        limits = [] if options.upgrade else installed_here()
        wanted = project_requirements(options.extra)
        locked = locked_of(resolve(wanted, limits), wanted)
        tools = build_requirements()
        files = {
            "torch.txt": [one for one in locked if HEAVY.fullmatch(one.name)],
            "runtime.txt": [one for one in locked if not HEAVY.fullmatch(one.name)],
            "build.txt": locked_of(resolve(tools, limits), tools),
        }
    except CannotLock as error:
        print(error, file=sys.stderr)
        return 2
    for name, packages in files.items():
        (FOLDER / name).write_text(rendered(packages))
        print(f"requirements/{name}: {len(packages)} packages")
    return 0


def _check_here() -> None:
    from pip import __version__ as pip_version

    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise CannotLock("run this on Linux x86_64: pip looks for packages of the machine it runs on")
    python = re.search(r"^ARG PYTHON=\S+?:(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    here = "{}.{}".format(*sys.version_info[:2])
    if python is None or python[1] != here:
        raise CannotLock(f"run this with the Dockerfile's Python ({python and python[1]}): this is {here}")
    if Version(pip_version) < OLDEST_PIP:
        raise CannotLock(f"pip {pip_version} is too old: {sys.executable} -m pip install --upgrade pip")


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


if __name__ == "__main__":
    sys.exit(main())
