"""A part of a package without the rest of it, and all of it for whoever wants it later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from consumer.lean_imports import import_part


def said(code: str, *path: Path) -> str:
    """What a fresh interpreter prints."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(map(str, path))},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that says so when its own module runs."""
    folder = tmp_path / "large" / "inner"
    folder.mkdir(parents=True)
    (tmp_path / "large" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("print('all of it')\nfrom .part import VALUE as ALIAS\n")
    (folder / "part.py").write_text("VALUE = 7\n")
    return tmp_path


PART = "from consumer.lean_imports import import_part; part = import_part('large.inner', 'part'); "


def test_a_part_is_imported_without_the_package_s_own_module(package: Path) -> None:
    assert said(PART + "print(part.VALUE)", package, Path.cwd()) == "7"


def test_whoever_wants_more_gets_all_of_it_with_the_same_part(package: Path) -> None:
    code = (
        PART + "import large.inner; from large.inner import part as same, ALIAS; print(ALIAS, same is part)"
    )

    assert said(code, package, Path.cwd()) == "all of it\n7 True"


def test_a_package_that_is_imported_already_stays_as_it_is(package: Path) -> None:
    code = "import large.inner; was = large.inner; " + PART + "print(large.inner is was, was.part is part)"

    assert said(code, package, Path.cwd()) == "all of it\nTrue True"


@pytest.mark.parametrize(("name", "part"), [("nowhere_at_all", "part"), ("json", "part")])
def test_what_does_not_exist_is_named_and_leaves_no_trace(name: str, part: str) -> None:
    before = sys.modules.get(name)

    with pytest.raises(ModuleNotFoundError, match=name):
        import_part(name, part)

    assert sys.modules.get(name) is before


def test_a_worker_imports_neither_googles_clients_nor_tools_for_terminals() -> None:
    code = (
        "import sys, consumer.cli, consumer.lean_imports as lean; lean.import_without_extras(); "
        "import consumer.serve, consumer.app; "
        "print([name for name in ('google.pubsub_v1.services', 'google.api_core', 'rich', 'pygments') "
        "if name in sys.modules])"
    )

    assert said(code, Path.cwd()) == "[]"


def test_googles_clients_are_there_for_whoever_wants_them_afterwards() -> None:
    code = (
        "from consumer.broker.messages import types; from google.cloud import pubsub_v1; "
        "import rich.console; from google.pubsub_v1 import types as theirs; "
        "print(theirs.PullRequest is types.PullRequest, pubsub_v1.SubscriberClient.__name__)"
    )

    assert said(code, Path.cwd()) == "True SubscriberClient"
