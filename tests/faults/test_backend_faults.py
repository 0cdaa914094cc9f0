"""The backend refuses, dawdles, answers nonsense, goes away: one effect for a request, or a dead letter."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.faults.invariants import judge
from tests.faults.misbehaving import MisbehavingServer, Received
from tests.faults.peers import ONCE, Peers, Tally, lasts, open_peers, step
from tests.faults.proxy import Line
from tests.faults.worker import Worker


def results_only(request: Received) -> bool:
    return request.path.endswith("/results")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    """Peers with one worker, for faults that leave no trace in it."""
    with open_peers(tmp_path_factory.mktemp("backend")) as peers:
        peers.worker(CALLBACK_NOT_FOUND_WAIT="1").until_ready()
        yield peers
        judge(peers)


@pytest.fixture
def peers_with_worker(shared: Peers) -> Iterator[tuple[Peers, Worker]]:
    yield shared, shared.workers[0]
    shared.broker.heal()
    shared.backend.heal()


Shared = tuple[Peers, Worker]


# ------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("status", [200, 201, 202, 204, 409])
def test_k2_an_answer_that_accepts_is_the_last_call(peers_with_worker: Shared, status: int) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=status, applied=True)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == ONCE


@pytest.mark.parametrize("status", [400, 410, 413, 415, 422])
def test_k2_an_answer_that_refuses_for_good_is_a_dead_letter_at_once(
    peers_with_worker: Shared, status: int
) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=status, only=results_only)
    sent = peers.send()
    peers.until_settled()

    (letter,) = peers.letters(sent)
    assert letter.attempts == 1
    assert letter.at - peers.runs(sent.image_id)[0].end < 1
    assert [result.status for result in peers.results(sent)] == ["succeeded"]  # stays published
    assert [effect.event for effect in peers.backend.effects_of(sent.image_id)] == ["error"]
    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=1, letters=1)


def test_k2_a_backend_that_refuses_the_error_too_does_not_keep_the_message(peers_with_worker: Shared) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=422)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=0, letters=1)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_k2_an_answer_that_may_pass_is_asked_again(peers_with_worker: Shared, status: int) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=status, times=1)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=1, letters=0)


@pytest.mark.parametrize("status", [429, 503])
def test_k2_retry_after_is_waited_for(peers_with_worker: Shared, status: int) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=status, times=1, headers={"Retry-After": "2"})
    sent = peers.send()
    peers.until_settled()

    first, second = peers.backend.received(sent.image_id)
    assert second.at - first.at >= 2


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 405])
def test_k2_an_answer_that_blames_our_configuration_is_waited_through(
    peers_with_worker: Shared, status: int
) -> None:
    peers, worker = peers_with_worker
    elsewhere = {"Location": "http://169.254.169.254/"} if status < 400 else {}
    fault = peers.backend.misbehave(status=status, headers=elsewhere)
    sent = peers.send()
    worker.until(lambda: not worker.ready, "it to be unready until an operator has acted")
    peers.until(lambda: fault.hits >= 2, "it to ask again")
    assert not peers.acked(sent)
    fault.lift()
    peers.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert peers.tally(sent).letters == 0
    assert peers.tally(sent).effects == 1
    assert peers.tally(sent).runs == 1


def test_k2_an_image_the_backend_does_not_know_yet_is_asked_about_again(peers_with_worker: Shared) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=404, times=1)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=1, letters=0)


def test_k2_an_image_the_backend_never_knows_is_a_dead_letter(peers_with_worker: Shared) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(status=404, only=results_only)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent).letters == 1
    assert peers.tally(sent).runs == 1


# ------------------------------------------------------------------------------- slow, endless, nonsense


def test_k1_a_slow_answer_within_the_limit_is_waited_for(peers_with_worker: Shared) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(delay=1.0, times=1)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == ONCE


def test_k1_headers_that_dribble_are_given_up_at_the_limit_of_the_whole_call(
    peers_with_worker: Shared,
) -> None:
    peers, _ = peers_with_worker
    fault = peers.backend.misbehave(drip=0.2, times=1, applied=True)
    sent = peers.send()
    peers.until(lambda: len(peers.backend.received(sent.image_id)) == 2, "the second call")
    fault.lift()
    peers.until_settled()

    first, second = peers.backend.received(sent.image_id)
    assert 2 <= second.at - first.at < 5
    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=1, letters=0)


def test_k1_an_answer_of_which_only_the_head_arrives_counts_by_its_status(peers_with_worker: Shared) -> None:
    peers, _ = peers_with_worker
    with peers.backend.misbehave(endless=True, times=1, applied=True):
        sent = peers.send()
        peers.until_settled()

    assert peers.tally(sent) == ONCE


def test_k1_an_answer_of_100_mb_is_not_read(peers_with_worker: Shared) -> None:
    peers, worker = peers_with_worker
    before = worker.memory()
    peers.backend.misbehave(body=b"x" * 100_000_000, times=1, applied=True)
    sent = peers.send()
    peers.until_settled()

    assert worker.memory() - before < 50_000_000
    assert peers.tally(sent) == ONCE


@pytest.mark.parametrize("body", [b"<html>", b"", b'{"success": false}', b"\xff\xfe", b"null"])
def test_k1_an_answer_in_other_words_counts_by_its_status(peers_with_worker: Shared, body: bytes) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(body=body, times=1, applied=True)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == ONCE


def test_k1_an_answer_cut_in_the_middle_counts_by_its_status(peers_with_worker: Shared) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(cut="half", body=b"x" * 1000, times=1, applied=True)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == ONCE


# ------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("cut", ["reset", "close"])
def test_k3_a_connection_cut_before_the_request_took_effect_is_tried_again(
    peers_with_worker: Shared, cut: str
) -> None:
    peers, _ = peers_with_worker
    peers.backend.misbehave(cut=cut, times=1)
    sent = peers.send()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=1, letters=0)


def test_k3_a_line_that_swallows_everything_for_a_while_loses_nothing(peers: Peers) -> None:
    line = peers.proxy(peers.backend.url)
    line.set(Line.SILENT)
    sent = peers.send()
    worker = peers.worker(BACKEND_URL=f"http://{line.address}", BACKEND_CALLBACK_TIMEOUT="1")
    worker.until(lambda: line.connections >= 2, "the second try")
    line.set(Line.UP)
    peers.until_settled()

    assert peers.tally(sent).effects == 1
    assert peers.tally(sent).runs == 1
    judge(peers)


def test_k4_a_backend_that_is_away_pauses_the_pulling_and_uses_up_nothing(peers: Peers) -> None:
    peers.worker(MAX_ATTEMPTS="1").until_ready()
    peers.backend.stop()
    sent = [peers.send() for _ in range(8)]
    lasts(3)
    peers.backend.start()
    # No more than the slots were run for, before it was known that nobody listens.
    assert len(peers.runs()) <= 4
    since = time.monotonic()
    peers.until_settled(60)

    assert time.monotonic() - since < 30
    assert [peers.tally(each) for each in sent] == [ONCE] * len(sent)
    judge(peers)


def test_k4_an_outage_longer_than_the_hold_hands_recorded_work_back_and_reads_it_on_return(
    peers: Peers,
) -> None:
    peers.worker(HOLD_TIMEOUT="1").until_ready()
    peers.backend.stop()
    sent = [peers.send() for _ in range(2)]

    def were_handed_back() -> bool:
        peers.cut_rests()
        return min(peers.deliveries(each) for each in sent) >= 2

    peers.until(were_handed_back, "both to be delivered again", 60)
    peers.backend.start()
    peers.until_settled(60)

    assert {peers.tally(each).runs for each in sent} == {1}
    assert {peers.tally(each).letters for each in sent} == {0}
    assert {peers.tally(each).effects for each in sent} == {1}
    judge(peers)


def test_k4_one_message_that_always_fails_opens_no_circuit_for_the_others(peers: Peers) -> None:
    bad = peers.request()
    peers.backend.fail(bad["image_id"], status=500)
    unlucky = peers.publish(bad)
    peers.worker().until_ready()
    peers.until(lambda: len(peers.backend.received(unlucky.image_id)) >= 2, "it to fail twice")
    good = [peers.send() for _ in range(10)]
    peers.until(lambda: all(peers.acked(each) for each in good), "the others to be delivered", 20)

    assert [peers.tally(each) for each in good] == [ONCE] * 10
    assert not peers.acked(unlucky)
    peers.backend.heal()
    peers.until_settled()
    judge(peers)


class Elsewhere(MisbehavingServer):
    """A host that only some messages name."""

    def answer(self, request: Received) -> None:  # type: ignore[override]
        raise AssertionError("it is never up")


def test_k4_a_dead_host_of_some_messages_holds_at_most_half_of_the_slots(peers: Peers) -> None:
    elsewhere = "http://127.0.0.2:9/results"
    dead = [peers.send(callback_url=elsewhere) for _ in range(6)]
    worker = peers.worker(SLOTS="4", CALLBACK_ALLOWED_HOSTS="http://127.0.0.2:9").until_ready()
    peers.until(lambda: len(peers.runs()) >= 2, "the first of them to run")
    good = [peers.send() for _ in range(10)]
    peers.until(lambda: all(peers.acked(each) for each in good), "the others to be delivered", 30)

    assert [peers.tally(each) for each in good] == [ONCE] * 10
    assert {peers.tally(each).letters for each in dead} == {0}
    assert worker.ready
    judge(peers, slots=4, settled=False)


# ------------------------------------------------------------------------------- where it may go


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/computeMetadata/v1/",
        "http://metadata.google.internal/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://localhost:1/",
        "https://evil.example/results",
        "http://user:secret@127.0.0.1/",
        "//127.0.0.1/results",
        "http://[::ffff:169.254.169.254]/",
        "http://0x7f000001/",
    ],
)
def test_k5_a_callback_url_that_is_not_allowed_is_a_dead_letter_and_is_never_called(
    peers_with_worker: Shared, url: str
) -> None:
    peers, _ = peers_with_worker
    sent = peers.send(callback_url=url)
    peers.until_settled()

    tally = peers.tally(sent)
    assert (tally.runs, tally.calls, tally.letters) == (0, 0, 1)


def test_k5_a_redirect_is_not_followed(peers: Peers) -> None:
    with Elsewhere() as trap:
        fault = peers.backend.misbehave(status=302, headers={"Location": f"{trap.url}/results"})
        sent = peers.send(step("work"))
        peers.worker()
        peers.until(lambda: fault.hits >= 2, "it to ask again")
        fault.lift()
        peers.until_settled()

        assert trap.exchanges == []
        assert peers.tally(sent).effects == 1
        judge(peers)
