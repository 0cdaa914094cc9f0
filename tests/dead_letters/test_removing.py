"""`mlworker dead-letters discard | export | import`: nothing goes without a word or a copy."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import grpc
import pytest

from consumer.dead_letters.archive import read_archive
from consumer.dead_letters.browsing import Browser
from contracts.dead_letter import StoredMessage
from tests.dead_letters.postbox import (
    BUCKET,
    DEAD,
    DEAD_SUB,
    FULL,
    PROJECT,
    WAIT,
    PostBox,
    die_by_reference,
    request,
)
from tests.peers import make_gcs_bucket


def fill(post: PostBox, count: int) -> list[str]:
    return [post.die(request(i), {"origin": "test"}, result_id=f"r{i}") for i in range(count)]


# ---------------------------------------------------------------------------- discard


def test_what_is_discarded_is_gone_and_noted(post: PostBox) -> None:
    ids = fill(post, 5)
    done = post.command("discard", "--id", ids[0], "--id", ids[1], "--yes")

    assert (done.returncode, done.stdout) == (0, "discarded 2 of 2 that match, 5 seen\n")
    assert sorted((line["action"], line["message_id"]) for line in post.audited()) == [
        ("discard", ids[0]),
        ("discard", ids[1]),
    ]
    assert post.left == 3


def test_without_a_filter_it_must_be_told_that_all_are_meant(post: PostBox) -> None:
    fill(post, 2)
    vague = post.command("discard", "--yes")

    assert (vague.returncode, vague.stderr) == (2, "which ones? name a filter, or --all\n")
    assert post.left == 2
    assert post.command("discard", "--all", "--yes").returncode == 0
    assert post.left == 0


def test_where_nobody_can_be_asked_nothing_is_discarded(post: PostBox) -> None:
    fill(post, 2)
    done = post.command("discard", "--all", stdin=b"y\n")

    assert done.returncode == 2
    assert "say --yes" in done.stderr
    assert post.left == 2


@pytest.mark.parametrize(("answer", "code", "left"), [(b"yes\n", 0, 0), (b"\n", 1, 2)])
def test_a_person_is_asked_first(post: PostBox, answer: bytes, code: int, left: int) -> None:
    fill(post, 2)
    with asked(post) as (process, terminal):
        os.write(terminal, answer)
        assert process.wait(30) == code
    assert post.left == left


def test_ctrl_c_at_the_question_discards_nothing(post: PostBox) -> None:
    fill(post, 2)
    with asked(post) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert post.left == 2


class asked:  # noqa: N801 (a context)
    """A discard that has asked its question at a terminal of its own."""

    def __init__(self, post: PostBox) -> None:
        self._line, self._environment = post.command_line("discard", "--all")
        self._terminal, self._theirs = pty.openpty()

    def __enter__(self) -> tuple[subprocess.Popen[bytes], int]:
        self._process = subprocess.Popen(
            self._line,
            env=self._environment,
            stdin=self._theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        said = b""
        assert self._process.stderr is not None
        end = time.monotonic() + 30
        while b"Discard 2 dead letters for good?" not in said:
            assert time.monotonic() < end
            said += os.read(self._process.stderr.fileno(), 1000)
        return self._process, self._terminal

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        os.close(self._terminal)
        os.close(self._theirs)


def test_where_more_are_there_than_can_be_held_it_is_told_and_no_success(
    post: PostBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(post, 6)
    monkeypatch.setattr("consumer.dead_letters.desk.Browser", partial(Browser, max_seen=4))
    done = post.command("discard", "--all", "--yes")

    assert (done.returncode, done.stdout) == (1, "discarded 4 of 4 that match, 4 seen\n")
    assert "warning: no more are held at a time, and there may be others: run it again" in done.stderr
    assert post.left == 2


def test_a_dry_run_discards_nothing(post: PostBox) -> None:
    fill(post, 2)
    told = post.told("discard", "--all", "--dry-run")

    assert (told["matching"], told["discarded"], told["dry_run"]) == (2, [], True)
    assert (post.left, post.audited()) == (2, [])


@FULL
def test_without_its_note_nothing_is_acked(post: PostBox) -> None:
    fill(post, 2)
    post.audit.symlink_to("/dev/full")
    done = post.command("discard", "--all", "--yes")

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert post.left == 2


# ---------------------------------------------------------------------------- export


def test_an_export_leaves_the_letters_where_they_are(post: PostBox) -> None:
    ids = fill(post, 3)
    post.forward(b"\xff")
    done = post.command("export", post.folder / "file.jsonl")

    assert (done.returncode, done.stderr) == (0, "")
    letters = list(read_archive(post.folder / "file.jsonl"))
    assert [letter.message_id for letter in letters][:3] == ids
    assert (letters[0].data, letters[0].attributes["origin"]) == (request(0), "test")
    assert letters[3].data == b"\xff"
    assert (post.left, post.audited()) == (4, [])


def test_what_is_removed_is_in_the_file_first(post: PostBox) -> None:
    ids = fill(post, 3)
    file = post.folder / "file.jsonl"
    told = post.told("export", file, "--id", ids[0], "--id", ids[1], "--remove")

    assert (told["exported"], sorted(told["removed"])) == (2, ids[:2])
    assert [letter.message_id for letter in read_archive(file)] == ids[:2]
    assert {(line["action"], line["file"]) for line in post.audited()} == {("export", str(file))}
    assert post.left == 1


def test_a_file_that_is_there_is_not_written_over_and_nothing_is_removed(post: PostBox) -> None:
    fill(post, 1)
    (file := post.folder / "file.jsonl").write_text("mine")
    done = post.command("export", file, "--remove")

    assert done.returncode == 2
    assert "is there already: name another file" in done.stderr
    assert (file.read_text(), post.left) == ("mine", 1)


def test_an_original_that_cannot_be_had_is_told_and_not_removed(post: PostBox) -> None:
    name = post.die(b"", claim_check=f"gs://{BUCKET}/dead-letters/1")
    done = post.command("export", post.folder / "file.jsonl", "--remove")

    assert done.returncode == 1
    assert f"kept {name}: exported without its original" in done.stderr
    assert post.left == 1


# ---------------------------------------------------------------------------- import


def test_what_was_exported_and_removed_comes_back_whole(post: PostBox) -> None:
    ids = fill(post, 20)
    file = post.folder / "file.jsonl"
    before = {one["id"]: one for one in post.told("list")["dead_letters"]}
    post.told("export", file, "--remove")
    told = post.told("import", file, "--rate", "200")

    assert told["published"].keys() == set(ids)
    after = {one["id"]: one for one in post.told("list")["dead_letters"]}
    for old, new in told["published"].items():
        for trait in ("code", "message", "tenant", "photo", "result_id", "failed_at", "source_subscription"):
            assert after[new][trait] == before[old][trait]
    assert post.left == 20
    post.told("replay", "--limit", "1")
    assert post.delivered()[0].attributes["origin"] == "test"


def test_an_original_in_the_bucket_is_carried_along(post: PostBox, fake_gcs: str, tmp_path: Path) -> None:
    import asyncio

    from consumer.storage.gcs import GcsStore

    bucket = f"{BUCKET}-import"
    make_gcs_bucket(fake_gcs, bucket)
    store = GcsStore("test", fake_gcs)
    body = request(1, filler="x" * 9_100_000)
    die_by_reference(post.broker.address, store, body, {"origin": "test"}, bucket)
    variables = {"BUCKET": bucket, "STORAGE_EMULATOR_HOST": fake_gcs}
    assert post.command("export", tmp_path / "file.jsonl", "--remove", **variables).returncode == 0
    asyncio.run(store.delete(bucket, "dead-letters/big-1"))

    assert post.command("import", tmp_path / "file.jsonl", **variables).returncode == 0
    kept = asyncio.run(store.read(bucket, "dead-letters/big-1"))
    assert StoredMessage.model_validate_json(kept.data).attributes == {"origin": "test"}
    assert post.command("replay", **variables).returncode == 0
    assert post.delivered()[0].data == body


def test_an_import_that_was_cut_short_goes_on_where_it_ended(post: PostBox) -> None:
    fill(post, 30)
    file = post.folder / "file.jsonl"
    post.told("export", file, "--remove")
    first = post.told("import", file, "--limit", "10")
    would, some = (
        post.command("import", file, "--dry-run", *limit).stdout for limit in ((), ("--limit", "5"))
    )
    assert would.startswith("would publish 20 of 30 letters to ")
    assert would.endswith("; 10 had been published before\n")
    assert some.startswith("would publish 5 of 30 letters to ")
    line, environment = post.command_line("import", file, "--rate", "20")
    line = [word for word in line if word not in ("--wait", WAIT)]
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 30
        while post.broker.backlog(DEAD_SUB) < 15:
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    third = post.told("import", file)

    assert len(first["published"]) == 10
    assert third["already"] + len(third["published"]) == 30
    assert third["already"] >= 15
    letters = post.told("list")["dead_letters"]
    assert sorted(one["result_id"] for one in letters) == sorted(f"r{i}" for i in range(30))


def test_a_damaged_file_is_told_line_by_line_and_nothing_is_published(post: PostBox) -> None:
    fill(post, 2)
    file = post.folder / "file.jsonl"
    post.told("export", file, "--remove")
    file.write_text(file.read_text() + "{\n")
    done = post.command("import", file)

    assert done.returncode == 2
    assert f"{file}:3: " in done.stderr
    assert post.left == 0


def test_a_topic_that_would_lose_them_is_refused(post: PostBox) -> None:
    fill(post, 1)
    file = post.folder / "file.jsonl"
    post.told("export", file, "--remove")
    post.broker.create_topic(f"projects/{PROJECT}/topics/lonely")
    done = post.command("import", file, "--topic", "lonely")

    assert done.returncode == 2
    assert "nobody subscribes to" in done.stderr
    assert post.told("import", file, "--dry-run")["published"] == {}
    post.broker.fail("Publish", grpc.StatusCode.UNAVAILABLE)
    away = post.command("import", file, "--timeout", "0.5")
    assert away.returncode == 1
    assert "UNAVAILABLE" in away.stderr
    post.broker.heal()
    assert len(post.told("import", file)["published"]) == 1
    assert json.loads(post.delivered(DEAD_SUB)[0].data) == json.loads(request(0))
    assert DEAD.endswith("dead-letters")
