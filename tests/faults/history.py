"""What really happened, as the peers saw it: the evidence that the invariants are judged by."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consumer.local.pubsub import Deed, Journal, Line


@dataclass(frozen=True)
class PipelineRun:
    """One execution of a pipeline's first step."""

    image_id: str
    pid: int
    start: float
    end: float
    """Infinite, if it was never heard of again."""


def read_runs(file: Path) -> list[PipelineRun]:
    """The runs that `steps.py` has kept account of."""
    started: dict[tuple[str, int], list[float]] = defaultdict(list)
    runs = []
    lines = file.read_text().splitlines() if file.exists() else []
    for line in map(json.loads, lines):
        key = (line["image_id"], line["pid"])
        if line["what"] == "start":
            started[key].append(line["at"])
        else:
            runs.append(PipelineRun(*key, started[key].pop(0), line["at"]))
    for key, starts in started.items():
        runs += [PipelineRun(*key, start, float("inf")) for start in starts]
    return sorted(runs, key=lambda run: run.start)


def most_at_once(runs: Iterable[PipelineRun]) -> int:
    """How many of the runs overlapped at most."""
    moments = [moment for run in runs for moment in ((run.start, 1), (run.end, -1))]
    now = most = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


@dataclass(frozen=True)
class PublishedResult:
    """A message on the results topic."""

    result_id: str
    status: str
    at: float


@dataclass(frozen=True)
class DeadLetter:
    """A message on the dead-letter topic."""

    code: str
    attempts: int
    source_id: str
    """Id of the message that was given up."""
    data: bytes
    at: float


@dataclass(frozen=True)
class Story:
    """All that the broker saw of one subscription, sorted by message and image."""

    lines: Sequence[Line]
    requests: str
    results: str
    dead_letters: str
    subscription: str

    @classmethod
    def read(cls, journal: Journal, requests: str, results: str, dead: str, subscription: str) -> Story:
        return cls(journal.lines(), requests, results, dead, subscription)

    def published(self) -> list[Line]:
        """Every request."""
        return [line for line in self.lines if line.deed is Deed.PUBLISHED and line.where == self.requests]

    def of(self, message_id: str, *deeds: Deed) -> list[Line]:
        """What became of one request's message on the subscription."""
        return [
            line
            for line in self.lines
            if line.where == self.subscription and line.message.id == message_id and line.deed in deeds
        ]

    def acked(self) -> dict[str, float]:
        """When each message was acked, by its id."""
        return {
            line.message.id: line.at
            for line in self.lines
            if line.where == self.subscription and line.deed is Deed.ACKED
        }

    def published_results(self) -> dict[str, list[PublishedResult]]:
        """The results, by image."""
        found = defaultdict(list)
        for line in self.lines:
            if line.deed is Deed.PUBLISHED and line.where == self.results:
                said = line.message.attributes
                found[said["image_id"]].append(PublishedResult(said["result_id"], said["status"], line.at))
        return dict(found)

    def letters(self) -> dict[str, list[DeadLetter]]:
        """The dead letters, by the id of the message that was given up."""
        found = defaultdict(list)
        for line in self.lines:
            if line.deed is Deed.PUBLISHED and line.where == self.dead_letters:
                said = line.message.attributes
                source = said.get("mlworker-source-message-id", "")
                found[source].append(
                    DeadLetter(
                        said.get("mlworker-error-code", ""),
                        int(said.get("mlworker-attempts", "0")),
                        source,
                        line.message.data,
                        line.at,
                    )
                )
        return dict(found)


def image_of(data: bytes) -> str | None:
    """The image a request is about, if it can be read."""
    try:
        body: Any = json.loads(data)
    except ValueError:
        return None
    return str(body["image_id"]) if isinstance(body, dict) and "image_id" in body else None
