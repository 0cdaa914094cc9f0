"""What other people's programs accept, asked of themselves without running anything."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Tree = Mapping[str, Any]


@functools.cache
def gcloud_tree() -> Tree | None:
    """The commands and flags of gcloud, from the file it completes words by; None without gcloud."""
    found = shutil.which("gcloud")
    if found is None:
        return None
    file = Path(found).resolve().parents[1] / "data/cli/gcloud_completions.py"
    spec = importlib.util.spec_from_file_location("gcloud_completions", file) if file.exists() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tree: Tree = module.STATIC_COMPLETION_CLI_TREE
    return tree


def unknown_to_gcloud(words: Sequence[str]) -> Iterator[str]:
    """Yield what gcloud has no command, flag or choice for."""
    node = gcloud_tree()
    assert node is not None
    known: dict[str, Any] = dict(node["flags"])
    rest = list(words[1:])
    while rest and not rest[0].startswith("-") and node["commands"]:
        if rest[0] not in node["commands"]:
            yield f"no command {rest[0]!r}"
            return
        node = node["commands"][rest.pop(0)]
    known |= node["flags"]
    if node["commands"]:
        yield "a group of commands, not a command"
    for flag, _, value in (word.partition("=") for word in rest if word.startswith("--")):
        name = flag.replace("--no-", "--", 1) if flag not in known else flag
        if name not in known:
            yield f"no flag {flag}"
        elif isinstance(known[name], list) and value:
            yield from (f"{flag}={one}" for one in value.split(",") if one not in known[name])


@functools.cache
def kubectl_flags(*command: str) -> frozenset[str]:
    """The flags of a command of kubectl; of one that is not there, none."""
    said = "".join(
        subprocess.run(["kubectl", *words], capture_output=True, text=True, check=False).stdout
        for words in ([*command, "--help"], ["options"])
    )
    return frozenset(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", said, re.MULTILINE)) if command else frozenset()


needs_gcloud = pytest.mark.skipif(
    shutil.which("gcloud") is None, reason="gcloud is not installed: it knows its own commands"
)
