"""Models' files are missing, wrong, cannot be kept; models answer what is no number."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.invariants import judge
from tests.faults.peers import BUCKET, ONCE, RESULTS, Peers, Sent, Tally, step
from tests.faults.worker import Worker
from tests.plugins import install

SEEING = (step("work"), step("detection"), step("count"))
MEANT = b"the weights that were meant"


def manifest(peers: Peers, *, pinned: bool, weights: str = "plants.safetensors") -> Path:
    """A folder of models with one detector; its file is still to be put there."""
    folder = peers.folder / "models"
    folder.mkdir()
    (folder / "models.yaml").write_text(
        "models:\n- name: plants\n  kind: detection\n  architecture: any\n  version: '1'\n"
        f"  weights: {weights}\n  sha256: {hashlib.sha256(MEANT).hexdigest()}\n"
        f"  classes: [plant]\n  input_size: 64\n  pinned: {str(pinned).lower()}\n"
    )
    return folder


def start(peers: Peers, folder: Path, **changes: str) -> Worker:
    """A worker that checks models' files, and for whom one attempt used up would be a dead letter."""
    return peers.worker(
        MODEL_PATH=str(folder), DEVICES="simulated:files=1", SLOTS="4", MAX_ATTEMPTS="1", **changes
    )


def until_others_pass_a_worker_that_needs_an_operator(peers: Peers, worker: Worker, held: Sent) -> None:
    worker.until(lambda: "configuration" in worker.failing(), "it to be unready until an operator has acted")
    assert worker.metric("mlworker_misconfigured") == 1
    others = [peers.send() for _ in range(3)]
    peers.until(lambda: all(map(peers.acked, others)), "messages without that model to be delivered")
    assert [peers.tally(each) for each in others] == [ONCE] * 3
    assert peers.tally(held) == Tally(runs=0, results=0, calls=0, effects=0, letters=0)


def test_u4_a_lazy_model_of_another_sha256_holds_its_messages_and_alerts_until_it_is_put_right(
    peers: Peers,
) -> None:
    folder = manifest(peers, pinned=False)
    (folder / "plants.safetensors").write_bytes(b"the weights of last week")
    worker = start(peers, folder).until_ready()
    sent = peers.send(*SEEING)
    until_others_pass_a_worker_that_needs_an_operator(peers, worker, sent)
    assert "plants" in worker.failing()["configuration"]
    (folder / "plants.safetensors").write_bytes(MEANT)
    peers.until(lambda: peers.acked(sent), "it to be delivered")  # by whoever held it: it does not rest
    worker.until(lambda: worker.ready, "it to be ready again")

    assert peers.tally(sent) == ONCE
    assert worker.metric("mlworker_misconfigured") == 0
    judge(peers, slots=4)


def test_u4_no_more_than_half_of_the_slots_wait_for_a_model_that_does_not_load(peers: Peers) -> None:
    folder = manifest(peers, pinned=False)
    worker = start(peers, folder).until_ready()
    sent = [peers.send(*SEEING) for _ in range(6)]
    until_others_pass_a_worker_that_needs_an_operator(peers, worker, sent[0])
    assert worker.metric("mlworker_slots_busy") <= 2
    (folder / "plants.safetensors").write_bytes(MEANT)
    peers.until_settled()

    assert [peers.tally(each) for each in sent] == [ONCE] * 6
    judge(peers, slots=4)


def test_o1_where_no_copy_of_a_model_can_be_kept_its_messages_are_held(peers: Peers) -> None:
    peers.bucket.put("models/plants.safetensors", MEANT)
    folder = manifest(peers, pinned=False, weights=f"gs://{BUCKET}/models/plants.safetensors")
    scratch = peers.folder / "scratch"
    scratch.mkdir()
    in_the_way = scratch / f"mlworker-models-{os.getuid()}"
    in_the_way.touch()  # nothing can be written below it, by nobody
    worker = start(peers, folder, TMPDIR=str(scratch)).until_ready()
    sent = peers.send(*SEEING)
    until_others_pass_a_worker_that_needs_an_operator(peers, worker, sent)
    in_the_way.unlink()
    peers.until_settled()

    assert peers.tally(sent) == ONCE
    judge(peers, slots=4)


def test_o1_models_that_load_but_do_not_fit_together_hold_their_messages_and_alert(peers: Peers) -> None:
    folder = peers.folder / "models"
    folder.mkdir()
    entries = [
        f"- {{name: {name}, kind: detection, architecture: any, version: '1', weights: {name}.safetensors, "
        f"sha256: '{hashlib.sha256(MEANT).hexdigest()}', classes: [plant], input_size: 64, pinned: false}}\n"
        for name in ("plants", "weeds")
    ]
    (folder / "models.yaml").write_text("models:\n" + "".join(entries))
    changes = {"MODEL_PATH": str(folder), "DEVICES": "simulated:bytes=60", "MAX_ATTEMPTS": "1", "SLOTS": "4"}
    worker = peers.worker(**changes, MODEL_MEMORY="100").until_ready()
    both = peers.send(step("work"), step("detection"), step("detection", model="weeds"))
    one = peers.send(step("work"), step("detection", model="weeds"))
    peers.until(lambda: peers.acked(one), "the message with one of them to be delivered")
    until_others_pass_a_worker_that_needs_an_operator(peers, worker, both)
    assert "MODEL_MEMORY is 100" in worker.failing()["configuration"]
    worker.terminate()
    peers.worker(**changes, MODEL_MEMORY="120").until_ready()
    peers.until_settled()

    assert [peers.tally(each) for each in (one, both)] == [ONCE] * 2
    judge(peers, slots=4)


@pytest.mark.parametrize("weights", [None, MEANT[:10]], ids=["missing", "cut"])
def test_u4_a_pinned_model_whose_file_is_not_there_is_a_failed_start_and_nothing_was_pulled(
    peers: Peers, weights: bytes | None
) -> None:
    folder = manifest(peers, pinned=True)
    if weights is not None:
        (folder / "plants.safetensors").write_bytes(weights)
    sent = peers.send()

    assert start(peers, folder).ended(60) == 1
    assert peers.broker.calls("Pull") == []
    assert not peers.acked(sent)


DREAM = '''
import numpy as np

from pipeline_steps.artifacts import Detections, Image
from pipeline_steps.context import StepContext
from pipeline_steps.registry import step


@step("dream")
def dream(image: Image, ctx: StepContext) -> Detections:
    """Find something nowhere."""
    nowhere = np.array([[np.nan, 0, 1, 1]], np.float32)
    return Detections(ctx.ids(1), nowhere, np.ones(1, np.float32), np.array(["plant"]), np.zeros(1, np.int64))
'''


@pytest.mark.parametrize(
    ("steps", "code", "said"),
    [
        (SEEING, "not_a_number", "model 'plants' answered what is no number"),
        ((step("work"), step("dream")), "invalid_result", "Box.x1 is nan"),
    ],
    ids=["model", "step"],
)
def test_u3_boxes_that_are_no_numbers_are_told_and_given_up_after_two_attempts(
    peers: Peers, control: Path, steps: tuple[dict[str, Any], ...], code: str, said: str
) -> None:
    install(peers.folder / "more", DREAM, name="dreaming_steps")
    both = os.pathsep.join([str(peers.folder / "more"), peers.environment()["PYTHONPATH"]])
    control.write_text("")
    worker = peers.worker(DEVICES=f"simulated:control={control}", PYTHONPATH=both).until_ready()
    control.write_text("nan")
    bad = peers.send(*steps)
    peers.until_settled()
    control.write_text("")
    good = peers.send(*SEEING)
    peers.until_settled()

    assert [(letter.code, letter.attempts) for letter in peers.letters(bad)] == [(code, 2)]
    first, *_ = peers.journal.lines(where=RESULTS)
    assert said in json.loads(first.message.data)["error"]["message"]
    assert peers.bucket.names(f"*{bad.image_id}*.json") == []  # no record that could not be read again
    assert peers.tally(good) == ONCE
    assert worker.alive
    judge(peers)
