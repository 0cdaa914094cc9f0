"""From Pub/Sub to LitServe and on: what has to be written to feed it from a queue."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler

from benchmarks.peers.job import Job, on_other_core


def main() -> None:
    """Work until SIGTERM."""
    on_other_core()
    job, local = Job(), threading.local()
    url = f"http://127.0.0.1:{os.environ['PORT']}/predict"
    waiting = 2 * job.batch + 2  # a batch in the server, one that waits there, and who fetches and delivers

    def callback(message: Any) -> None:
        request = json.loads(message.data)
        if not hasattr(local, "session"):
            local.session = requests.Session()
        photo = {"jpeg": base64.b64encode(job.fetch(request)).decode()}
        answer = local.session.post(url, json=photo, timeout=60)
        answer.raise_for_status()
        job.deliver(request, answer.json())
        message.ack()

    with pubsub_v1.SubscriberClient() as client:
        client.subscribe(
            job.subscription,
            callback,
            flow_control=pubsub_v1.types.FlowControl(max_messages=2 * waiting),
            scheduler=ThreadScheduler(ThreadPoolExecutor(waiting)),
        )
        print("ready", flush=True)
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
