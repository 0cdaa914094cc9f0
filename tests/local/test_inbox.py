"""The inbox uploads files that have stopped changing, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from consumer.local.inbox import Inbox
from pipeline_steps.errors import InvalidInput


class Uploads(list[tuple[str, bytes]]):
    """Takes uploads, and looks at the inbox as often as a test says."""

    def __init__(self, folder: Path) -> None:
        self.inbox = Inbox(folder, self.take)

    async def take(self, name: str, data: bytes) -> None:
        if data == b"refuse":
            raise InvalidInput("refused")
        self.append((name, data))

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.inbox.look())


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def test_a_file_is_uploaded_once_it_has_stopped_changing(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    put(tmp_path, "acme/originals/a.jpg", b"ha")
    uploads.look()
    put(tmp_path, "acme/originals/a.jpg", b"half")
    uploads.look()

    assert uploads == []

    uploads.look(3)

    assert uploads == [("acme/originals/a.jpg", b"half")]


def test_a_file_that_is_replaced_is_uploaded_again(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    put(tmp_path, "acme/originals/a.jpg", b"one")
    uploads.look(2)
    put(tmp_path, "acme/originals/a.jpg", b"other")
    uploads.look(2)

    assert [data for _, data in uploads] == [b"one", b"other"]


def test_hidden_empty_and_misplaced_files_are_left_alone(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    put(tmp_path, "acme/originals/.a.jpg.part", b"x")
    put(tmp_path, ".trash/originals/a.jpg", b"x")
    put(tmp_path, "acme/originals/empty.jpg", b"")
    put(tmp_path, "acme/top.jpg", b"x")

    uploads.look(3)

    assert uploads == []


def test_a_file_that_is_refused_does_not_stop_the_others(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    put(tmp_path, "acme/originals/a.jpg", b"refuse")
    put(tmp_path, "acme/originals/b.jpg", b"fine")

    uploads.look(2)

    assert uploads == [("acme/originals/b.jpg", b"fine")]
