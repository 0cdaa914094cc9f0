"""What surrounds a worker goes wrong: a certificate expires, a photo is compressed, no file can be opened."""

from __future__ import annotations

import gzip
import json
import os
import ssl
from pathlib import Path

from tests.doctor.tls import certificate
from tests.faults.invariants import judge
from tests.faults.peers import BUCKET, ONCE, RESULTS, Peers, Tally, lasts, small_jpeg, step
from tests.plugins import install

TRUSTING = """
import os
import certifi

certifi.where = lambda: os.environ["FAULTS_AUTHORITIES"]  # whom callbacks trust
"""

GREEDY = '''
import asyncio
import os
import resource
from pathlib import Path

from pydantic import Field

from pipeline_steps.artifacts import Detections, Image
from pipeline_steps.registry import StepParams, step


class GreedyParams(StepParams):
    """How long it keeps them."""

    full: str = Field(description="A file that is made when there is none left.")
    gate: str = Field(description="A file that is waited for.")


@step("take_files")
async def take_files(image: Image, params: GreedyParams) -> Detections:
    """Open files until no more can be opened."""
    Path(params.full).touch()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    taken = []
    try:
        while len(taken) < 256:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        os.truncate(params.full, 1)
        while not os.path.exists(params.gate):
            await asyncio.sleep(0.05)
    finally:
        for file in taken:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return Detections.none()
'''


def with_plugin(peers: Peers, source: str, name: str) -> str:
    """Install one more plug-in, and return the path that has it too."""
    install(peers.folder / name, source, name=name)
    return os.pathsep.join([str(peers.folder / name), peers.environment()["PYTHONPATH"]])


def served_with(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def test_k3_a_backend_whose_certificate_has_expired_is_waited_for_until_it_is_renewed(peers: Peers) -> None:
    expired, renewed = (certificate(peers.folder, days=days) for days in (-1, 90))
    authorities = peers.folder / "authorities.pem"
    authorities.write_bytes(expired[0].read_bytes() + renewed[0].read_bytes())
    peers.backend.stop()
    peers.backend.tls = served_with(expired)
    peers.backend.start()
    worker = peers.worker(
        BACKEND_URL=f"https://127.0.0.1:{peers.backend.port}",
        FAULTS_AUTHORITIES=str(authorities),
        PYTHONPATH=with_plugin(peers, TRUSTING, "trusting_steps"),
        MAX_ATTEMPTS="1",
    ).until_ready()
    sent = peers.send()
    worker.until(lambda: "configuration" in worker.failing(), "it to be unready until an operator has acted")
    assert "certificate has expired" in worker.failing()["configuration"]
    assert peers.tally(sent) == Tally(runs=1, results=1, calls=0, effects=0, letters=0)
    peers.backend.stop()
    peers.backend.tls = served_with(renewed)
    peers.backend.start()
    peers.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert peers.tally(sent) == ONCE
    judge(peers)


def test_g1_a_photo_that_is_stored_compressed_is_a_dead_letter_that_says_so(peers: Peers) -> None:
    peers.bucket.put("acme/originals/packed.jpg", gzip.compress(small_jpeg()))
    sent = peers.send(image_url=f"gs://{BUCKET}/acme/originals/packed.jpg")
    peers.worker().until_ready()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=0, results=1, calls=1, effects=1, letters=1)
    (result,) = peers.journal.lines(where=RESULTS)
    assert "a gzip file" in json.loads(result.message.data)["error"]["message"]
    judge(peers)


def test_o3_a_worker_that_can_open_no_file_uses_up_no_attempt_and_goes_on_when_it_can(peers: Peers) -> None:
    full, gate = peers.folder / "full", peers.gate()
    path = with_plugin(peers, GREEDY, "greedy_steps")
    worker = peers.worker(PYTHONPATH=path, MAX_ATTEMPTS="1").until_ready()
    seeing = (step("detection"), step("count"))
    first = peers.send(*seeing)
    peers.until(lambda: peers.acked(first), "what is loaded with the first message to be loaded")
    greedy = peers.send(step("take_files", full=str(full), gate=str(gate)))
    worker.until(lambda: full.exists() and full.stat().st_size, "no file to be opened any more")
    others = [peers.send(*seeing) for _ in range(3)]
    lasts(3)  # more than a lease
    gate.touch()
    peers.until_settled(60)

    tallies = [peers.tally(each) for each in (first, greedy, *others)]
    assert [(tally.effects, tally.letters) for tally in tallies] == [(1, 0)] * 5
    assert worker.alive
    judge(peers)
