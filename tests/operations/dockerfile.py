"""A Dockerfile as a list of stages, each a list of instructions."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import ROOT

FILE = ROOT / "Dockerfile"


@dataclass(frozen=True)
class Instruction:
    """One instruction; comments and line ends are gone."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """What an exec form lists, or the words of a shell form."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)


@dataclass(frozen=True)
class Stage:
    """What begins with a FROM."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, *names: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name in names]

    def last(self, name: str) -> Instruction:
        return self.all(name)[-1]

    def place(self, name: str, text: str) -> int:
        """Where among the instructions the one of this name is whose text holds these words."""
        [place] = [i for i, one in enumerate(self.instructions) if one.name == name and text in one.text]
        return place


def instructions(text: str) -> Iterator[Instruction]:
    """Yield them in order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield Instruction(name.upper(), re.sub(r"\s+", " ", rest).strip())


def stages(file: Path = FILE) -> dict[str, Stage]:
    """The stages by name, in order; ARGs before the first FROM are filled in."""
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage = None
    for one in instructions(file.read_text()):
        if one.name == "FROM":
            base, _, name = one.words
            stage = Stage(name, re.sub(r"\$\{(\w+)\}", lambda said: arguments[said[1]], base))
            found[name] = stage
        elif stage is None:
            name, _, value = one.text.partition("=")
            arguments[name] = value
        else:
            stage.instructions.append(one)
    return found


def command(file: Path = FILE) -> list[str]:
    """What a container of the image runs unless it is told something else."""
    last = list(stages(file).values())[-1]
    return [*last.last("ENTRYPOINT").words, *last.last("CMD").words]
