"""What is left of the job when a peer has done its part: fetch and decode the photo, publish, call back."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import requests
import simplejpeg
from google.cloud import pubsub_v1

from benchmarks.method import on_core

Answers = Callable[[Sequence[Any]], list[dict[str, Any]]]
"""From prepared pictures to what is found on each."""
DEVICE_CORE, OTHER_CORE = 0, 1


class Job:
    """A photo's way, told by the environment as the worker's is."""

    def __init__(self) -> None:
        self.subscription = (
            f"projects/{os.environ['GOOGLE_CLOUD_PROJECT']}/subscriptions/{os.environ['SIDE']}"
        )
        self.batch = int(os.environ["BATCH"])
        self._bucket = os.environ["STORAGE_EMULATOR_HOST"]
        self._backend = os.environ["BACKEND_URL"]
        self._topic = f"projects/{os.environ['GOOGLE_CLOUD_PROJECT']}/topics/results"
        self._publisher = pubsub_v1.PublisherClient(pubsub_v1.types.BatchSettings(max_messages=1))
        self._local = threading.local()

    def fetch(self, request: dict[str, Any]) -> bytes:
        """Return the bytes of the request's photo."""
        bucket, _, name = request["image_url"].removeprefix("gs://").partition("/")
        url = f"{self._bucket}/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media"
        answer = self._session.get(url, timeout=10)
        answer.raise_for_status()
        return answer.content

    def deliver(self, request: dict[str, Any], found: dict[str, Any]) -> None:
        """Publish what was found, then tell the backend."""
        body = json.dumps({"image_id": request["image_id"], **found}).encode()
        self._publisher.publish(self._topic, body).result(10)
        url = f"{self._backend}/api/v1/processing-callback/results"
        self._session.post(url, body, timeout=10).raise_for_status()

    @property
    def _session(self) -> requests.Session:
        """A connection for each thread, kept open."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session


def decode(jpeg: bytes) -> Any:
    """Return a photo's pixels, decoded as the worker decodes them."""
    return simplejpeg.decode_jpeg(jpeg, fastdct=False, fastupsample=False)


# ---------------------------------------------------------------------------------------------- the model


def is_simulated() -> bool:
    """Tell whether the device is simulated."""
    return os.environ["MODEL"].startswith("simulated")


def on_other_core() -> None:
    """Keep this process off the device's core, if there is a real model; else that core is for the host."""
    on_core(DEVICE_CORE if is_simulated() else OTHER_CORE)


def on_device_core() -> None:
    """Put this thread on the device's core."""
    os.sched_setaffinity(0, {DEVICE_CORE % (os.cpu_count() or 1)})


@contextmanager
def at_device() -> Iterator[None]:
    """Have this thread on the device's core for as long as it has the device."""
    on_device_core()
    try:
        yield
    finally:
        on_other_core()


def model() -> tuple[Callable[[Any], Any], Answers]:
    """Return what makes a picture ready for the model, and the model."""
    name, *times = os.environ["MODEL"].split(":")
    if name == "simulated":
        fixed, per_item = map(float, times)
        return (lambda picture: picture), lambda batch: _sleep(fixed, per_item, batch)
    return _real(name)


def _sleep(fixed: float, per_item: float, batch: Sequence[Any]) -> list[dict[str, Any]]:
    time.sleep(fixed + per_item * len(batch))
    return [{"boxes": [[0, 0, 9, 9]] * 3} for _ in batch]


def _real(name: str) -> tuple[Callable[[Any], Any], Answers]:
    """Return the worker's own model: what differs is how it is fed."""
    import torch

    from benchmarks.peers.plants import runner

    torch.set_num_threads(1)
    detector = runner(name)

    def answers(batch: Sequence[Any]) -> list[dict[str, Any]]:
        with torch.inference_mode():
            return [
                {"boxes": found.xyxy.tolist(), "scores": found.score.tolist()}
                for found in detector.run(batch)
            ]

    return detector.prepare, answers
