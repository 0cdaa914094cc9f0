"""LitServe with a simulated device and nothing around it: what its own loop makes of many callers."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import litserve as ls

from benchmarks.method import on_core
from benchmarks.peers.job import DEVICE_CORE


class Echo(ls.LitAPI):  # type: ignore[misc]  # it ships no annotations
    """Gives items back, after the time a device would take."""

    def setup(self, device: str) -> None:
        """Read how slow the device is."""
        _, *times = os.environ["MODEL"].split(":")
        self._fixed, self._per_item = map(float, times)

    def decode_request(self, request: dict[str, int]) -> int:
        """Return the item."""
        return request["item"]

    def batch(self, inputs: Sequence[Any]) -> list[Any]:
        """Leave the items as they are."""
        return list(inputs)

    def predict(self, x: Any) -> Any:
        """Answer one item or a batch."""
        time.sleep(self._fixed + self._per_item * (len(x) if isinstance(x, list) else 1))
        return x

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return one answer for each."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Answer JSON."""
        return {"item": output}


def main() -> None:
    """Serve until SIGTERM."""
    on_core(DEVICE_CORE)
    api = Echo(max_batch_size=int(os.environ["BATCH"]), batch_timeout=float(os.environ["BATCH_TIMEOUT"]))
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
