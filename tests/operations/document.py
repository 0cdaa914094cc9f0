"""docs/operations.md as blocks, and what is typed in them as commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.command import ROOT

FILE = ROOT / "docs" / "operations.md"
_SUBSTITUTION = re.compile(r"\$\(([^()]*(?:\([^()]*\)[^()]*)*)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    tag: str
    """`runs`, `needs-cluster` or nothing."""
    text: str
    line: int


def blocks() -> list[Block]:
    """All of them, in order."""
    text = FILE.read_text()
    return [
        Block(found[1], found[2].strip(), found[3], text.count("\n", 0, found.start()) + 1)
        for found in re.finditer(r"^```(\w*)(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    ]


def prose() -> str:
    """The text without its blocks."""
    return re.sub(r"^```\w*.*\n(?:.*\n)*?```$", "", FILE.read_text(), flags=re.MULTILINE)


def spans() -> list[str]:
    """What stands between backquotes in the text, over line ends too."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose())]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a piece of shell, each as its words; here-documents are left out."""
    text = re.sub(r"<<'?EOF'?\n.*?^EOF$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = text.replace("\\\n", " ")
    for inner in _SUBSTITUTION.findall(text):
        yield from commands(inner)
    for line in _SUBSTITUTION.sub("SUBSTITUTED", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        lexer.commenters = "#"
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "|", "&&"):
                yield from _without_loops(command)
                command = []
            else:
                command.append(word)


def _without_loops(words: list[str]) -> Iterator[list[str]]:
    """The command without what a loop puts around it."""
    if words[:1] == ["do"]:
        words = words[1:]
    if words and words[0] not in ("for", "done"):
        yield words


def documents_in(text: str) -> list[str]:
    """What here-documents hold."""
    return re.findall(r"<<'?EOF'?\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)


def exported(text: str) -> dict[str, str]:
    """The variables that a piece of shell sets, as they are written there."""
    found: dict[str, str] = {}
    for words in commands(text):
        if words[0] == "export":
            found |= dict(word.split("=", 1) for word in words[1:])
    return found


def loop_variables(text: str) -> set[str]:
    return set(re.findall(r"^for (\w+) in", text, re.MULTILINE))
