"""`mlworker dead-letters list | stats | show`: what people and machines are shown."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from consumer.cli import app
from tests.cli.test_help import examples_in
from tests.command import ROOT, bare_environment
from tests.dead_letters.postbox import (
    BUCKET,
    DEAD,
    DEAD_SUB,
    WORK,
    PostBox,
    die_by_reference,
    reason,
    request,
)
from tests.invoke import invoke
from tests.peers import make_gcs_bucket

COMMANDS = ("list", "stats", "show", "replay", "discard", "export", "import")


def test_a_list_shows_each_letter_with_its_reason(post: PostBox) -> None:
    ids = [post.die(request(i), replay_count=i) for i in range(2)]
    done = post.command("list", COLUMNS="200")

    assert (done.returncode, done.stderr) == (0, "")
    for name, words in zip(ids, ("1 try", "1 try  1 replay"), strict=True):
        [line] = [line for line in done.stdout.splitlines() if line.startswith(f"{name}  ")]
        age, tenant = line.split()[1:3]
        assert (60 <= int(age.removesuffix("s")) < 90, tenant) == (True, "acme")
        assert f"invalid_pipeline  permanent  steps.1  {words}" in line
    assert done.stdout.count("steps.1.name: no step is named 'detecton'") == 2
    assert done.stdout.endswith(
        "2 of 2 dead letters seen match; backlog unknown (an emulator does not tell)\n"
    )
    assert post.left == 2


def test_json_is_all_there_is_on_stdout(post: PostBox) -> None:
    post.die(request(5), result_id="r5")
    post.forward(b"\xff")
    post.broker.publish(DEAD, b"by hand")
    told = post.told("list")

    assert (told["seen"], told["matching"], told["saw_all"], told["backlog"]) == (3, 3, True, None)
    assert list(told) == [
        "seen", "saw_all", "ended", "backlog", "backlog_note", "matching", "unjudged", "dead_letters",
    ]  # fmt: skip
    assert list(told["dead_letters"][0]) == [
        "id", "envelope", "code", "class", "message", "step", "attempts", "replays", "failed_at", "tenant",
        "photo", "result_id", "source_subscription", "source_message_id", "source_publish_time",
        "publish_time", "worker_version", "trace_id", "claim_check", "unreadable",
    ]  # fmt: skip
    worker, pubsub, none = sorted(told["dead_letters"], key=lambda letter: int(letter["id"]))
    assert (worker["envelope"], worker["tenant"], worker["class"]) == ("worker", "acme", "permanent")
    assert (worker["photo"], worker["result_id"]) == (f"gs://{BUCKET}/acme/originals/5.jpg", "r5")
    assert (pubsub["envelope"], pubsub["code"], pubsub["attempts"]) == ("pubsub", "not_acked", 5)
    assert (none["envelope"], none["code"]) == ("none", "unknown")
    assert post.left == 3


def test_filters_are_options(post: PostBox) -> None:
    post.die(request(1, tenant_id="green"), error_code="object_missing", step_path=None)
    wanted = post.die(request(2), failed_at="2026-03-01T12:00:00Z")

    assert [
        post.told("list", *options.split())["matching"]
        for options in (
            f"--tenant acme --code invalid_pipeline --class permanent --step steps.1 --id {wanted}",
            "--text originals/2.jpg --until 2026-03-02",
            "--tenant acme --tenant green --limit 1",
            "--tenant acme --code object_missing",
        )
    ] == [1, 1, 1, 0]
    assert post.left == 2


def test_stats_count_every_trait(post: PostBox) -> None:
    for i in range(5):
        post.die(request(i, tenant_id="green" if i else "acme"), replay_count=i // 4)
    told, shown = post.told("stats")["stats"], post.command("stats")

    assert told["code"] == {"invalid_pipeline": 5}
    assert told["tenant"] == {"green": 4, "acme": 1}
    assert (told["step"], told["source"]) == ({"steps.1": 5}, {WORK: 5})
    assert (told["replays"], told["envelope"]) == ({"0": 4, "1": 1}, {"worker": 5})
    assert told["age"] == {"under an hour": 5}
    assert "tenant" in shown.stdout
    assert post.left == 5


def test_one_letter_is_shown_by_any_of_its_ids(post: PostBox) -> None:
    post.die(request(0), source_message_id="other")
    own = post.die(request(5), {"origin": "test"}, source_message_id="source-5", result_id="r5")
    told, shown = post.told("show", "r5"), post.command("show", "source-5")

    assert (told["id"], told["attributes"]) == (own, {"origin": "test"})
    assert told["body"] == json.loads(request(5))
    assert '"image_url": "gs://photos/acme/originals/5.jpg"' in shown.stdout
    assert "attribute origin" in shown.stdout
    assert post.command("show", own, "--body").stdout.encode() == request(5)
    assert post.left == 2


def test_the_body_is_shown_as_a_replay_would_send_it(post: PostBox) -> None:
    name = post.die(request(5))
    (patch := post.folder / "patch.json").write_text('{"settings": {"a": 1}}')

    assert post.told("show", name, "--patch", patch)["body"]["settings"] == {"a": 1}
    patch.write_text("[]")
    wrong = post.command("show", name, "--patch", patch)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "patch.json: expected a JSON object, got list" in wrong.stderr


def test_a_body_that_is_no_json_is_shown_all_the_same_and_obeyed_by_no_terminal(post: PostBox) -> None:
    name = post.die(b"\xff\x1b[31mred[bold]", error_message="\x1b]0;title\x07[red]markup[/red]")
    shown, listed = post.command("show", name), post.command("list", COLUMNS="200")

    assert "\x1b" not in shown.stdout + listed.stdout
    assert "[red]markup[/red]" in listed.stdout
    assert "red[bold]" in shown.stdout
    assert post.told("show", name)["body_base64"] == "/xtbMzFtcmVkW2JvbGRd"


def test_a_letter_that_is_not_there_is_a_failure_that_says_how_many_were_seen(post: PostBox) -> None:
    post.die(request())
    done = post.command("show", "12345")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"not found: 12345, among 1 seen in {DEAD_SUB}\n"


def test_an_original_in_the_bucket_is_fetched(post: PostBox, fake_gcs: str, tmp_path: Path) -> None:
    from consumer.storage.gcs import GcsStore

    make_gcs_bucket(fake_gcs, BUCKET)
    body = request(1, filler="x" * 9_100_000)
    store = GcsStore("test", fake_gcs)
    name = die_by_reference(post.broker.address, store, body, {"origin": "test"})
    bucket = {"BUCKET": BUCKET, "STORAGE_EMULATOR_HOST": fake_gcs}

    assert post.told("list", "--tenant", "acme", **bucket)["matching"] == 1
    assert post.command("show", name, "--body", **bucket).stdout.encode() == body
    without = post.command("list", "--tenant", "acme")
    assert f"kept {name}: whether it is meant cannot be told" in without.stderr
    assert post.command("show", name).returncode == 1


def test_every_missing_variable_is_named() -> None:
    project, subscription, topic = (
        f"{variable} (or {option}): required"
        for variable, option in (
            ("GOOGLE_CLOUD_PROJECT", "--project"),
            ("DEAD_LETTER_SUBSCRIPTION", "--subscription"),
            ("DEAD_LETTER_TOPIC", "--topic"),
        )
    )
    for command in ("list", "replay", "export file"):
        done = invoke("dead-letters", *command.split())
        assert (done.returncode, done.stderr.splitlines()) == (2, [project, subscription])
    assert invoke("dead-letters", "import", "file").stderr.splitlines() == [project, topic]


def test_wrong_input_is_told_without_a_traceback(post: PostBox) -> None:
    wrong_time = post.command("list", "--since", "yesterday")
    wrong_name = post.command("list", DEAD_LETTER_SUBSCRIPTION="dead-leters")

    assert (wrong_time.returncode, wrong_name.returncode) == (2, 2)
    assert "--since, --until: 'yesterday': expected an age" in wrong_time.stderr
    assert "projects/nursery/subscriptions/dead-leters" in wrong_name.stderr
    assert "Traceback" not in wrong_time.stderr + wrong_name.stderr


def test_a_broker_that_is_away_is_a_failure(post: PostBox) -> None:
    post.broker.fail("Pull", grpc.StatusCode.UNAVAILABLE)
    done = post.command("list", "--timeout", "0.5")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pull from {DEAD_SUB}: UNAVAILABLE")


def test_ctrl_c_hands_everything_back(post: PostBox) -> None:
    for i in range(50):
        post.die(request(i))
    line, environment = post.command_line("list")
    line[line.index("--audit") :] = ["--wait", "60"]
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 30
        while post.broker.leased(DEAD_SUB) < 50:
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        # The pull that waits is not cut off, or a letter could be leased to nobody: let it have one.
        post.die(request(51))
        assert process.wait(30) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == b""
        assert b"Traceback" not in process.stderr.read()
    assert post.left == 51


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples_whose_options_exist(command: str) -> None:
    shown = CliRunner().invoke(
        app, ["dead-letters", command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    mine = [words[2:] for words in examples_in(shown.stdout) if words[1] == command]

    assert mine
    for words in mine:
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if f" {option} " not in shown.stdout] == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_narrow_terminal(command: str) -> None:
    shown = CliRunner().invoke(
        app, ["dead-letters", *command.split(), "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"}
    )

    assert [line for line in shown.stdout.splitlines() if len(line.rstrip()) > 80] == []


def test_no_torch_and_no_store_is_loaded_to_look(post: PostBox) -> None:
    post.die(request(), **reason().model_dump(include={"error_code"}))
    code = (
        "import sys\nfrom consumer.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\nprint('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "dead-letters", "list", "--wait", "0.4"],
        capture_output=True, text=True, check=True, cwd=ROOT, env=bare_environment(**post.environment),
    )  # fmt: skip
    loaded = set(done.stdout.rpartition("MODULES")[2].split())

    assert "1 of 1 dead letters" in done.stdout
    assert loaded & {"torch", "torchvision", "numpy", "google.cloud.storage"} == set()
