"""What is told of a message that failed."""

from __future__ import annotations

from consumer.local.pubsub import Deed
from contracts.result import ProcessingResult
from tests.faults.invariants import judge
from tests.faults.peers import RESULTS, Peers, Sent, step


def results_of(peers: Peers, sent: Sent) -> list[ProcessingResult]:
    """The whole results, as readers of the topic got them."""
    published = peers.journal.lines(Deed.PUBLISHED, where=RESULTS)
    results = [ProcessingResult.model_validate_json(line.message.data) for line in published]
    return [result for result in results if str(result.image_id) == sent.image_id]


def test_m2_a_failed_result_tells_what_was_done_until_then(peers: Peers) -> None:
    older = f"{peers.backend.url}/ml/callback"
    sent = peers.send(step("detection"), step("work", how="permanent", seconds=0.2), callback_url=older)
    peers.worker()
    peers.until_settled()

    (result,) = results_of(peers, sent)
    assert result.status == "failed"
    assert [(report.path, report.status) for report in result.steps] == [
        ("steps.0", "succeeded"),
        ("steps.1", "failed"),
    ]
    assert [model.name for model in result.models] == ["plants"]
    assert result.image is not None
    assert (result.image.width, result.image.height) == (64, 48)
    assert result.image_generation is not None
    (effect,) = peers.backend.effects
    assert effect.body["success"] is False
    assert 200 <= effect.body["durationMs"] < 20_000
    judge(peers)


def test_m2_a_message_that_failed_before_its_run_tells_of_no_step(peers: Peers) -> None:
    sent = peers.send(image_url="gs://photos/acme/originals/never.jpg")
    peers.worker()
    peers.until_settled()

    (result,) = results_of(peers, sent)
    assert (result.steps, result.models, result.image) == ((), (), None)
    assert (result.finished_at - result.started_at).total_seconds() >= 3  # it was looked for
    judge(peers)
