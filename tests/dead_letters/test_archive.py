"""Dead letters in a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer.dead_letters.archive import (
    InvalidArchive,
    archived,
    check_archive,
    new_archive,
    read_archive,
    write_letter,
)
from consumer.dead_letters.envelope import read_envelope
from contracts.dead_letter import StoredMessage
from tests.dead_letters.postbox import DEAD_SUB, delivery, letter_of


def write(file: Path, *bodies: bytes) -> None:
    with new_archive(file) as output:
        for body in bodies:
            write_letter(output, archived(read_envelope(letter_of(body)), DEAD_SUB, None))


def test_what_is_written_is_read_back_byte_by_byte(tmp_path: Path) -> None:
    stored = StoredMessage(data_base64="AA==", attributes={"a": "Ä"})
    letter = read_envelope(delivery(b"\xff\x00\n", {"name": "line\nbreak \u2028"}))
    with new_archive(tmp_path / "file.jsonl") as output:
        write_letter(output, archived(letter, DEAD_SUB, stored))

    assert check_archive(tmp_path / "file.jsonl") == 1
    [found] = read_archive(tmp_path / "file.jsonl")
    assert (found.message_id, found.data) == ("7", b"\xff\x00\n")
    assert found.attributes == {"name": "line\nbreak \u2028"}
    assert found.stored == stored
    assert (found.publish_time, found.subscription) == (letter.delivery.publish_time, DEAD_SUB)
    assert found.exported_at <= datetime.now(UTC)


def test_a_file_bears_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"

    def cut_short() -> None:
        with new_archive(file) as output:
            output.write(b"half")
            assert not file.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut_short()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    write(file, b"1")

    with pytest.raises(InvalidArchive, match="is there already"), new_archive(file):
        pass
    (tmp_path / "other.jsonl.part").touch()
    with pytest.raises(InvalidArchive, match="another export"), new_archive(tmp_path / "other.jsonl"):
        pass
    assert check_archive(file) == 1
    assert (tmp_path / "other.jsonl.part").exists(), "it is not ours"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive, match="No such file or directory"), new_archive(tmp_path / "no" / "x"):
        pass
    with pytest.raises(InvalidArchive, match="cannot read"):
        check_archive(tmp_path / "missing")


def test_every_bad_line_is_told_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    write(file, b"1", b"2")
    good = file.read_text().splitlines()
    bad = good[1].replace('"data_base64":"Mg=="', '"data_base64":"?"')
    file.write_text("\n".join([good[0], "{", "", '{"message_id": ""}', bad]))

    with pytest.raises(InvalidArchive) as refused:
        check_archive(file)
    told = str(refused.value).splitlines()
    assert told[0].startswith(f"{file}:2: (root): ")
    assert any(line.startswith(f"{file}:4: publish_time: required") for line in told)
    assert told[-1].startswith(f"{file}:5: data_base64: not base64")


def test_of_very_many_bad_lines_only_the_first_are_told(tmp_path: Path) -> None:
    (tmp_path / "file.jsonl").write_text("{\n" * 500)

    with pytest.raises(InvalidArchive) as refused:
        check_archive(tmp_path / "file.jsonl")
    assert len(str(refused.value).splitlines()) == 21
