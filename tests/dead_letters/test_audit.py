"""The audit log: what was done, by whom, and what must not be done again."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.dead_letters.audit import Audit, AuditFailed, Entry
from tests.dead_letters.postbox import FULL

WHEN = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def entry(message_id: str = "1") -> Entry:
    return Entry("replay", message_id, WHEN, "sub", "99", "topic", {"code": "invalid_pipeline", "none": None})


def test_a_line_says_who_did_what_when(tmp_path: Path) -> None:
    with Audit(tmp_path / "audit.jsonl") as audit:
        audit.note(entry())
    [line] = [json.loads(text) for text in (tmp_path / "audit.jsonl").read_text().splitlines()]

    assert {"user", "host"} <= line.keys()
    assert datetime.now(UTC) - datetime.fromisoformat(line["time"]) < timedelta(minutes=1)
    assert (line["action"], line["message_id"], line["place"]) == ("replay", "1", "sub")
    assert (line["published_as"], line["topic"], line["code"]) == ("99", "topic", "invalid_pipeline")
    assert "none" not in line


def test_what_was_done_is_remembered_by_the_next_run(tmp_path: Path) -> None:
    with Audit(tmp_path / "audit.jsonl") as audit:
        audit.note(entry())
        assert audit.done("replay", "sub", "1", WHEN) == "99"
    with Audit(tmp_path / "audit.jsonl") as audit:
        assert audit.done("replay", "sub", "1", WHEN) == "99"
        assert audit.done("discard", "sub", "1", WHEN) is None
        assert audit.done("replay", "another", "1", WHEN) is None
        assert audit.done("replay", "sub", "2", WHEN) is None


def test_an_emulator_that_gives_the_same_id_again_is_not_taken_for_the_same_message(tmp_path: Path) -> None:
    with Audit(tmp_path / "audit.jsonl") as audit:
        audit.note(entry())
        assert audit.done("replay", "sub", "1", WHEN + timedelta(microseconds=1)) is None


def test_what_is_older_than_any_message_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with Audit(file) as audit:
        audit.note(entry())
    line = json.loads(file.read_text())
    line["time"] = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    file.write_text(json.dumps(line) + "\n")

    with Audit(file) as audit:
        assert audit.done("replay", "sub", "1", WHEN) is None


def test_a_line_torn_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    with Audit(file) as audit:
        audit.note(entry("1"))
    whole = file.read_bytes()
    odd = json.dumps(json.loads(whole) | {"place": ["not", "a", "name"]}).encode()
    file.write_bytes(b"garbage\n[1]\n{}\n" + odd + b"\n" + whole + whole[:40])

    with Audit(file) as audit:
        audit.note(entry("2"))
    with Audit(file) as audit:
        assert audit.done("replay", "sub", "1", WHEN) == "99"
        assert audit.done("replay", "sub", "2", WHEN) == "99"


@FULL
def test_a_full_disk_is_an_error_and_not_forgotten_lines() -> None:
    with Audit(Path("/dev/full")) as audit, pytest.raises(AuditFailed, match="No space left"):
        audit.note(entry())


def test_lines_of_processes_side_by_side_stay_whole(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    children = []
    for child in range(4):
        if (process := os.fork()) == 0:
            with Audit(file) as audit:
                for i in range(200):
                    audit.note(entry(f"{child}-{i}"))
            os._exit(0)
        children.append(process)
    for process in children:
        os.waitpid(process, 0)

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({line["message_id"] for line in lines}) == len(lines) == 800
