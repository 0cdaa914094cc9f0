"""What `h_scale_out.py` starts many times: a worker and a stock subscriber, each with a simulated device."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

BATCH, FIXED, PER_ITEM = 4, 0.45, 0.0125
"""The device: how many items share a batch, and the seconds a batch takes: 0.5 for a full one."""
FULL_BATCH = FIXED + BATCH * PER_ITEM


async def worker(bucket_folder: str) -> None:
    """Be `mlworker run`, but for the bucket, which is a folder: it is shared without a server."""
    from consumer.app import open_worker
    from consumer.ops.logging import configure_logging
    from consumer.settings import load_settings
    from consumer.storage.filesystem import FilesystemStore

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    store = FilesystemStore(Path(bucket_folder))
    async with open_worker(settings, store=store, is_local=True, host="127.0.0.1") as running:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.worker.stop)
        await running.worker.run()
    if "torch" in sys.modules:
        raise RuntimeError("a worker with a simulated device has imported torch")


def stock(subscription: str) -> None:
    """Google's client as its documentation has it, with default settings; the device takes one at a time.

    It gets the time an item has in a full batch, so that what differs is who holds which messages.
    """
    from google.cloud import pubsub_v1

    device = threading.Lock()

    def callback(message: pubsub_v1.subscriber.message.Message) -> None:
        seconds = int(message.attributes["items"]) * FULL_BATCH / BATCH
        with device:
            time.sleep(seconds)
            print(f"busy {seconds}", flush=True)
        message.ack()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # what it holds is nobody's any more
    with pubsub_v1.SubscriberClient() as client:
        pulling = client.subscribe(subscription, callback)
        print("ready", flush=True)
        pulling.result()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(worker(sys.argv[2]))
    else:
        stock(sys.argv[2])
