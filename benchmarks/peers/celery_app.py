"""Celery on its Pub/Sub transport: `python -m benchmarks.peers.celery_app [--send]`.

A task handles one photo; it is acked late, so that a lost worker loses nothing, and tasks run in threads, so
that they fetch and deliver while one of them has the model.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from functools import cache
from typing import Any

from celery import Celery
from kombu.transport import gcpubsub

from benchmarks.peers.job import Answers, Job, at_device, decode, model, on_other_core

THREADS = 10
_device = threading.Lock()
app = Celery("photos", broker=f"gcpubsub://projects/{os.environ['GOOGLE_CLOUD_PROJECT']}")
app.conf.update(
    task_acks_late=True,
    task_default_queue=os.environ["SIDE"],
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=2,
    broker_transport_options={"queue_name_prefix": "", "ack_deadline_seconds": 60},
)


class Unfiltered(gcpubsub.Channel):  # type: ignore[misc]  # it ships no annotations
    """Asks for subscriptions without a filter: all messages pass it here, and not every broker has one."""

    def _create_subscription(self, *args: Any, filter_args: object = None, **more: Any) -> Any:
        return super()._create_subscription(*args, **more)


gcpubsub.Transport.Channel = Unfiltered


@cache
def _job() -> tuple[Job, Any, Answers]:
    return Job(), *model()


@app.task(name="handle")  # type: ignore[untyped-decorator]
def handle(request: dict[str, Any]) -> None:
    """Do the whole job of one photo."""
    job, prepare, answers = _job()
    picture = prepare(decode(job.fetch(request)))
    with _device, at_device():
        (found,) = answers([picture])
    job.deliver(request, found)


def main() -> None:
    """Work until SIGTERM; or send one task for the given photo, whose message others may copy."""
    if "--send" in sys.argv:
        handle.delay({"image_id": "1", "image_url": sys.argv[-1]})
        time.sleep(1)  # the transport publishes from a thread, which does not outlive the program
        return
    on_other_core()
    _job()
    options = ["--pool=threads", f"--concurrency={THREADS}", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", *options, "--without-heartbeat", "--loglevel=WARNING"])


if __name__ == "__main__":
    main()
