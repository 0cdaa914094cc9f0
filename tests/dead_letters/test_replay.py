"""`mlworker dead-letters replay`: exactly those that are meant, once, at the rate, and none lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from consumer.broker import Delivery
from tests.dead_letters.postbox import (
    DEAD,
    DEAD_SUB,
    FULL,
    PROJECT,
    REQUESTS,
    WORK,
    PostBox,
    request,
)

LETTERS = int(os.environ.get("DEAD_LETTERS", "150"))
"""Of the tests that count; a third of them is meant. `DEAD_LETTERS=3000` replays a thousand."""


def photos(deliveries: list[Delivery]) -> Counter[str]:
    """How often each photo's message is there."""
    return Counter(json.loads(one.data)["image_id"] for one in deliveries)


def image(number: int) -> str:
    found: str = json.loads(request(number))["image_id"]
    return found


def fill(post: PostBox, count: int) -> list[int]:
    """Dead letters of two kinds; the numbers of the first kind."""
    for i in range(count):
        post.die(request(i), {"origin": "test"}, error_code="object_missing" if i % 3 else "model_mismatch")
    return [i for i in range(count) if i % 3 == 0]


@contextmanager
def running(post: PostBox, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    line, environment = post.command_line("replay", *words)
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)


# ---------------------------------------------------------------------------- what is published


def test_a_replay_is_the_original_message_and_how_often_it_was_replayed(post: PostBox) -> None:
    name = post.die(request(1), {"origin": "test", "mlworker-force": "1"}, replay_count=1, result_id="r1")
    told = post.told("replay")
    [replay] = post.delivered()

    assert replay.data == request(1)
    assert replay.attributes == {
        "origin": "test",
        "mlworker-force": "1",
        "mlworker-replay-count": "2",
        "mlworker-replay-for": WORK,
    }
    assert told["replayed"] == [{"id": name, "published_as": replay.message_id, "topic": REQUESTS}]
    assert (told["kept"], told["unacked"], told["not_begun"], told["trouble"]) == ([], [], 0, None)
    assert post.left == 0


def test_what_pubsub_forwarded_is_replayed_to_the_subscription_it_came_from(post: PostBox) -> None:
    post.forward(b"\xff not json", origin="test")
    told = post.told("replay")

    assert told["replayed"][0]["topic"] == f"{REQUESTS}-forwarding"
    [replay] = post.delivered(f"{WORK}-forwarding")
    assert replay.data == b"\xff not json"
    assert set(replay.attributes) == {"origin", "mlworker-replay-count", "mlworker-replay-for"}
    assert post.delivered() == []


def test_a_patch_changes_every_body_and_what_cannot_be_patched_is_kept(post: PostBox) -> None:
    post.die(request(1, callback_url="https://old.example"))
    text, listed = post.die(b"\xff"), post.die(b"[1]")
    (post.folder / "patch.json").write_text('{"settings": {"species": ["ficus"]}, "callback_url": null}')
    done = post.command("replay", "--patch", post.folder / "patch.json")

    assert (done.returncode, done.stdout) == (1, "replayed 1 of 3 that match, 3 seen; kept 2\n")
    assert f"kept {text}: the body is not JSON, so it cannot be patched" in done.stderr
    assert f"kept {listed}: the body is a JSON list, no object: it cannot be patched" in done.stderr
    [replay] = post.delivered()
    assert json.loads(replay.data) == json.loads(request(1, settings={"species": ["ficus"]}))
    assert post.left == 2


def test_the_audit_log_says_who_replayed_what_as_what(post: PostBox) -> None:
    name = post.die(request(1), result_id="r1", replay_count=1)
    (post.folder / "patch.json").write_text('{"settings": {}}')
    done = post.command("replay", "--patch", post.folder / "patch.json")
    [line], [replay] = post.audited(), post.delivered()

    assert (line["action"], line["message_id"], line["place"]) == ("replay", name, DEAD_SUB)
    assert (line["published_as"], line["topic"]) == (replay.message_id, REQUESTS)
    assert (line["source_message_id"], line["result_id"], line["replay_count"]) == ("source-1", "r1", 2)
    assert len(line["patch_sha256"]) == 64
    assert line["user"]
    logged = [json.loads(text) for text in done.stderr.splitlines()]
    assert [(entry["message"], entry["published_as"]) for entry in logged] == [
        ("dead_letter_replay", replay.message_id)
    ]


# ---------------------------------------------------------------------------- who is meant, and who listens


def test_a_dry_run_does_nothing_and_tells_what_would_be_done(post: PostBox) -> None:
    fill(post, 4)
    shown, told = post.command("replay", "--dry-run"), post.told("replay", "--dry-run", "--limit", "3")

    assert f"would replay 4 of 4 seen to {REQUESTS}" in shown.stdout
    assert [one["replay_count"] for one in told["would_replay"]] == [1, 1, 1]
    assert (post.delivered(), post.left, post.audited()) == ([], 4, [])


def test_what_was_replayed_too_often_is_kept(post: PostBox) -> None:
    tired = post.die(request(1), replay_count=3)
    post.die(request(2), replay_count=2)
    done = post.command("replay")

    assert done.returncode == 1
    assert f"kept {tired}: replayed 3 times already (--max-replays 3)" in done.stderr
    assert photos(post.delivered()) == {image(2): 1}
    assert post.command("replay", "--max-replays", "4").returncode == 0
    assert photos(post.delivered()) == {image(1): 1}


def test_where_nobody_listens_nothing_is_published(post: PostBox) -> None:
    gone = f"projects/{PROJECT}/subscriptions/gone"
    name = post.die(request(1), source_subscription=gone)
    by_hand = post.broker.publish(DEAD, request(2))
    done = post.command("replay")

    assert done.returncode == 1
    assert f"kept {name}: {gone} does not exist any more: name a topic with --to" in done.stderr
    assert f"kept {by_hand}: it does not say which subscription it comes from" in done.stderr
    assert (post.delivered(), post.left) == ([], 2)
    post.broker.create_topic(f"projects/{PROJECT}/topics/lonely")
    lonely = post.command("replay", "--to", "lonely")
    assert (lonely.returncode, post.left) == (2, 2)
    assert "nobody subscribes to projects/nursery/topics/lonely" in lonely.stderr
    assert post.command("replay", "--to", "requests").returncode == 0
    assert photos(post.delivered()) == {image(1): 1, image(2): 1}


def test_others_who_would_get_it_too_are_named(post: PostBox) -> None:
    post.broker.create_subscription(f"projects/{PROJECT}/subscriptions/archive", REQUESTS)
    post.die(request(1))
    done = post.command("replay")

    assert done.returncode == 0
    assert f"warning: projects/{PROJECT}/subscriptions/archive also listen to {REQUESTS}" in done.stderr
    assert 'NOT attributes:"mlworker-replay-for"' in done.stderr


# ---------------------------------------------------------------------------- exactly those, once


def test_exactly_those_once_at_the_given_rate(post: PostBox) -> None:
    wanted = fill(post, LETTERS)
    (post.folder / "patch.json").write_text('{"settings": {"replayed": true}}')
    before = len(post.broker.rpcs)
    told = post.told(
        "replay", "--code", "model_mismatch", "--patch", post.folder / "patch.json", "--rate", "50"
    )

    sent = [rpc.at for rpc in post.broker.rpcs[before:] if rpc.method == "Publish"]
    assert len(sent) == len(wanted) == LETTERS // 3
    # Never faster; how much slower is the machine's affair.
    assert sent[-1] - sent[0] >= 0.95 * (len(wanted) - 1) / 50
    busiest = max(sum(start <= moment < start + 1 for moment in sent) for start in sent)
    assert busiest <= 50 * 1.1 + 1
    replays = post.delivered()
    assert photos(replays) == {image(i): 1 for i in wanted}
    assert all(json.loads(one.data)["settings"] == {"replayed": True} for one in replays)
    assert (len(told["replayed"]), post.left) == (len(wanted), LETTERS - len(wanted))


def test_ctrl_c_in_the_middle_loses_none_and_the_next_run_does_the_rest(post: PostBox) -> None:
    wanted = fill(post, LETTERS)
    with running(post, "--code", "model_mismatch", "--rate", str(LETTERS / 8), "--json") as process:
        until(lambda: post.broker.backlog(WORK) >= LETTERS / 30, "the first replays")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        told = json.load(process.stdout)
        assert b"Traceback" not in process.stderr.read()

    first = post.delivered()
    assert LETTERS / 30 <= len(first) < len(wanted)
    assert (told["interrupted"], len(told["replayed"]), told["unacked"]) == (True, len(first), [])
    assert told["not_begun"] == len(wanted) - len(first)
    assert post.left == LETTERS - len(first), "what was not begun is there, and free for everybody at once"
    assert post.command("replay", "--code", "model_mismatch").returncode == 0
    assert photos(first + post.delivered()) == {image(i): 1 for i in wanted}
    assert post.left == LETTERS - len(wanted)


def test_a_kill_between_publish_and_ack_loses_none_and_the_next_run_only_acks(post: PostBox) -> None:
    wanted = fill(post, 60)
    hung = post.broker.fail("Acknowledge", delay=float("inf"))
    with running(post, "--code", "model_mismatch") as process:
        until(lambda: post.audit.exists() and len(post.audited()) == 20, "the audit log")
        process.kill()
        process.wait(30)
    until(lambda: not hung.holding, "the broker to notice that nobody waits for an answer any more")
    post.broker.heal()

    assert post.broker.backlog(DEAD_SUB) == 60, "nothing was acked"
    post.broker.advance(601)  # leases of a process that is no more
    told = post.told("replay", "--code", "model_mismatch")
    assert (told["replayed"], told["acked_only"], told["kept"]) == ([], 20, [])
    assert photos(post.delivered()) == {image(i): 1 for i in wanted}
    assert post.left == 40


def test_a_second_ctrl_c_ends_it_at_once_and_loses_none(post: PostBox) -> None:
    fill(post, 3)
    hung = post.broker.fail("Publish", delay=float("inf"))
    with running(post, "--timeout", "60") as process:
        until(lambda: len(post.broker.calls("Publish")) == 3, "publishes")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"stopping: ")
        started = time.monotonic()
        assert process.poll() is None, "the first waits for what is under way"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert time.monotonic() - started < 10
    until(lambda: not hung.holding, "the broker to notice that nobody waits for an answer any more")
    post.broker.heal()

    assert post.broker.backlog(DEAD_SUB) == 3


# ---------------------------------------------------------------------------- a broker that misbehaves


def test_what_is_not_confirmed_is_not_acked(post: PostBox) -> None:
    fill(post, 5)
    post.broker.fail("Publish", grpc.StatusCode.UNAVAILABLE)
    done = post.command("replay", "--timeout", "0.5")
    post.broker.heal()

    assert done.returncode == 1
    assert "stopped: publish to projects/nursery/topics/requests: UNAVAILABLE" in done.stderr
    assert "not confirmed: it may have been published all the same" in done.stderr
    assert post.left == 5


def test_a_right_that_is_missing_is_the_operators_and_loses_none(post: PostBox) -> None:
    fill(post, 5)
    post.broker.fail("Publish", grpc.StatusCode.PERMISSION_DENIED)
    done = post.command("replay")
    post.broker.heal()

    assert done.returncode == 2
    assert "PERMISSION_DENIED" in done.stderr
    assert post.left == 5


@FULL
def test_what_was_published_is_acked_even_if_it_cannot_be_noted_and_the_run_ends(post: PostBox) -> None:
    post.die(request(1))
    post.audit.symlink_to("/dev/full")
    done = post.command("replay")

    assert done.returncode == 1
    assert "stopped: audit log" in done.stderr
    assert photos(post.delivered()) == {image(1): 1}
    assert post.left == 0, "or the next run would publish it again"


def test_an_ack_that_is_not_confirmed_is_told_and_made_good_by_the_next_run(post: PostBox) -> None:
    name = post.die(request(1))
    post.broker.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE)
    done = post.command("replay", "--timeout", "0.5")
    post.broker.heal()

    assert done.returncode == 1
    assert f"not acked {name}: it was replayed; run again with this audit log" in done.stderr
    post.broker.advance(601)
    post.broker.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE)
    still = post.command("replay", "--timeout", "0.5")
    post.broker.heal()
    assert (still.returncode, "acked now" in still.stdout) == (1, False)
    post.broker.advance(601)
    again = post.command("replay")
    assert "1 had been replayed before and are acked now" in again.stdout
    assert photos(post.delivered()) == {image(1): 1}
    assert post.left == 0


def test_a_message_too_large_to_carry_its_count_is_kept_and_the_others_go(post: PostBox) -> None:
    post.forward(request(1), **{f"attribute-{i}": "" for i in range(100)})
    post.die(request(2))
    done = post.command("replay")

    assert (done.returncode, done.stdout) == (1, "replayed 1 of 2 that match, 2 seen; kept 1\n")
    assert "too large to be published again: 101 attributes" in done.stderr
    assert photos(post.delivered()) == {image(2): 1}
    assert post.left == 1


def test_an_audit_log_that_cannot_be_written_is_told_before_anything_is_done(post: PostBox) -> None:
    fill(post, 1)
    post.audit.mkdir()
    done = post.command("replay")

    assert done.returncode == 2
    assert "name another file with --audit" in done.stderr
    assert (post.delivered(), post.left) == ([], 1)
