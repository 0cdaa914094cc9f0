"""Google's streaming client with the model in its callback, as its documentation has it."""

from __future__ import annotations

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler

from benchmarks.peers.job import Job, at_device, decode, model, on_other_core

THREADS = 10
"""As many callbacks run at once as by default: while one has the model, others fetch and deliver."""


def main() -> None:
    """Work until SIGTERM."""
    on_other_core()
    job, (prepare, answers), device = Job(), model(), threading.Lock()

    def callback(message: Any) -> None:
        request = json.loads(message.data)
        picture = prepare(decode(job.fetch(request)))
        with device, at_device():  # one at a time, as a GPU and as one core
            (found,) = answers([picture])
        job.deliver(request, found)
        message.ack()

    callbacks = ThreadScheduler(ThreadPoolExecutor(THREADS))
    with pubsub_v1.SubscriberClient() as client:
        client.subscribe(
            job.subscription,
            callback,
            flow_control=pubsub_v1.types.FlowControl(max_messages=2 * THREADS),
            scheduler=callbacks,
        )
        print("ready", flush=True)
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
