"""The device runs out of memory, hangs, fails: the message's lease is kept, and others go on."""

from __future__ import annotations

from pathlib import Path

from tests.faults.invariants import judge
from tests.faults.kept_alive import kept_alive
from tests.faults.peers import ONCE, Peers, Sent, lasts, step

SEEING = (step("work"), step("detection"), step("count"))


def send_seeing(peers: Peers) -> Sent:
    return peers.send(*SEEING)


def test_u1_batches_that_do_not_fit_into_memory_are_divided_until_they_do(peers: Peers) -> None:
    sent = [send_seeing(peers) for _ in range(12)]
    worker = peers.worker(DEVICES="simulated:memory=1:fixed=0.05", SLOTS="6")
    peers.until_settled()

    assert worker.metric("mlworker_oom_splits_total") > 0
    assert [peers.tally(each) for each in sent] == [ONCE] * 12
    judge(peers, slots=6)


def test_u1_a_device_without_memory_for_one_gives_its_messages_up_and_no_others(peers: Peers) -> None:
    blind = peers.send()
    seeing = send_seeing(peers)
    peers.worker(DEVICES="simulated:memory=0", MAX_ATTEMPTS="3")
    peers.until_settled()

    assert [letter.attempts for letter in peers.letters(seeing)] == [3]
    assert peers.tally(blind) == ONCE
    judge(peers)


def test_u1_a_device_out_of_memory_for_a_while_gives_nothing_up(peers: Peers, control: Path) -> None:
    control.write_text("oom")
    sent = send_seeing(peers)
    peers.worker(DEVICES=f"simulated:control={control}")
    peers.until_running(sent)
    peers.until(lambda: peers.runs(sent.image_id)[0].end < float("inf"), "the run to fail")
    lasts(0.3)
    control.write_text("")
    peers.until_settled()

    assert peers.tally(sent).runs >= 2
    assert peers.tally(sent).letters == 0
    assert peers.tally(sent).effects == 1
    judge(peers)


def test_u2_a_device_that_hangs_for_longer_than_a_lease_costs_no_lease(peers: Peers, control: Path) -> None:
    control.write_text("")
    peers.worker(DEVICES=f"simulated:control={control}").until_ready()
    control.write_text("hang")
    sent = send_seeing(peers)
    peers.until_running(sent)
    lasts(3)
    assert not peers.bucket.names("*.json")
    control.write_text("")
    peers.until_settled()

    assert peers.deliveries(sent) == 1
    assert peers.tally(sent) == ONCE
    judge(peers)


def test_u2_what_a_hung_device_never_answers_ends_with_its_time(peers: Peers, control: Path) -> None:
    control.write_text("")
    worker = peers.worker(DEVICES=f"simulated:control={control}", PIPELINE_TIMEOUT="1").until_ready()
    control.write_text("hang")
    seeing = send_seeing(peers)
    peers.until_running(seeing)
    blind = [peers.send() for _ in range(5)]
    peers.until_settled()

    assert [peers.tally(each) for each in blind] == [ONCE] * 5
    assert peers.tally(seeing).letters == 1
    assert peers.tally(seeing).runs == 2
    assert worker.alive
    judge(peers)


def test_u3_a_device_that_fails_gives_its_messages_up_after_two_attempts_and_then_works_again(
    peers: Peers, control: Path
) -> None:
    control.write_text("")
    peers.worker(DEVICES=f"simulated:control={control}").until_ready()
    control.write_text("fail")
    bad = send_seeing(peers)
    peers.until_settled()
    control.write_text("")
    good = send_seeing(peers)
    peers.until_settled()

    assert [letter.attempts for letter in peers.letters(bad)] == [2]
    assert peers.tally(good) == ONCE
    judge(peers)


def test_u3_a_broken_device_ends_the_worker_and_another_goes_on(peers: Peers, control: Path) -> None:
    control.write_text("")
    broken = peers.worker(DEVICES=f"simulated:control={control}").until_ready()
    control.write_text("break")
    seeing = send_seeing(peers)

    assert broken.ended(20) == 1
    assert not peers.acked(seeing)
    control.write_text("")
    peers.worker(DEVICES=f"simulated:control={control}")
    peers.until_settled()
    tally = peers.tally(seeing)
    assert (tally.runs, tally.effects, tally.letters) == (2, 1, 0)
    judge(peers)


def test_u3_what_breaks_every_device_is_given_up_after_its_attempts(peers: Peers, control: Path) -> None:
    control.write_text("break")
    seeing = send_seeing(peers)
    with kept_alive(peers, 1, DEVICES=f"simulated:control={control}", MAX_ATTEMPTS="3"):
        peers.until_settled(60)

    assert [letter.attempts for letter in peers.letters(seeing)] == [3]
    judge(peers)


def test_u4_a_device_that_fails_at_the_start_is_a_failed_start_and_nothing_was_pulled(
    peers: Peers, control: Path
) -> None:
    control.write_text("fail")
    sent = peers.send()

    assert peers.worker(DEVICES=f"simulated:control={control}").ended(60) == 1
    assert peers.broker.calls("Pull") == []
    assert not peers.acked(sent)
