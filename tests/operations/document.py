"""docs/operations.md as blocks, and what is typed in them as commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from tests.command import ROOT
from tests.k8s.manifests import Document

FILE = ROOT / "docs" / "operations.md"
KEDA = "https://github.com/kedacore/keda/releases/download/v$KEDA/keda-$KEDA.yaml"
"""The one file that is applied from elsewhere."""
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


def shell() -> list[Block]:
    """Those that are typed."""
    return [block for block in blocks() if block.language in ("sh", "bash", "console")]


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
    if words[:1] in (["do"], ["until"]):
        words = words[1:]
    if words and words[0] not in ("for", "done"):
        yield words


def typed(program: str) -> list[list[str]]:
    """All that is typed of a program, in blocks of every kind and in the text."""
    pieces = [block.text for block in shell()] + [
        span for span in spans() if span.startswith(f"{program} ") and "..." not in span
    ]
    found = [words for piece in pieces for words in commands(piece)]
    inside = [words[words.index("--") + 1 :] for words in found if words[0] == "kubectl" and "--" in words]
    return [words for words in [*found, *inside] if words[0] == program]


def by_hand(*beginning: str) -> list[list[str]]:
    """What is typed of a command of gcloud, without the command itself."""
    return [
        words[len(beginning) :] for words in typed("gcloud") if tuple(words[: len(beginning)]) == beginning
    ]


def flags(words: list[str]) -> dict[str, str]:
    return {
        name: value for name, _, value in (word.partition("=") for word in words if word.startswith("--"))
    }


def documents_in(text: str) -> list[str]:
    """What here-documents hold."""
    return re.findall(r"<<'?EOF'?\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)


def manifests() -> list[Document]:
    """Those that are typed for `kubectl apply`."""
    texts = [text for block in shell() for text in documents_in(block.text) if text.startswith("apiVersion")]
    return [one for text in texts for one in yaml.safe_load_all(filled(text))]


def filled(text: str) -> str:
    """A text with the variables in it as the document sets them."""
    names = {name: value for block in shell() for name, value in exported(block.text).items()}
    return re.sub(r"\$([A-Z]+)", lambda said: filled(names[said[1]]), text)


def exported(text: str) -> dict[str, str]:
    """The variables that a piece of shell sets, as they are written there."""
    found: dict[str, str] = {}
    for words in commands(text):
        if words[0] == "export":
            found |= dict(word.split("=", 1) for word in words[1:])
    return found


def loop_variables(text: str) -> set[str]:
    return set(re.findall(r"^for (\w+) in", text, re.MULTILINE))
