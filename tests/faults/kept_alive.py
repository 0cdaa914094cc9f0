"""What Kubernetes does for a Deployment: whatever ends is started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.peers import Peers
from tests.faults.worker import Worker


@contextmanager
def kept_alive(peers: Peers, count: int, **changes: str) -> Iterator[list[Worker]]:
    """Keep so many workers running while the context lasts; gives those that run now."""
    running = [peers.worker(**changes) for _ in range(count)]
    over = threading.Event()

    def restart() -> None:
        while not over.wait(0.05):
            for place, worker in enumerate(running):
                if not worker.alive:
                    running[place] = peers.worker(**changes)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        yield running
    finally:
        over.set()
        thread.join()
