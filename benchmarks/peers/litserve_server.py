"""LitServe with the model: photos come as JSON in base64, as its documentation sends them."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import litserve as ls

from benchmarks.peers.job import decode, model, on_device_core, on_other_core


class Photos(ls.LitAPI):  # type: ignore[misc]  # it ships no annotations
    """Finds things on photos."""

    def setup(self, device: str) -> None:
        """Load the model, in the process that will run it."""
        on_device_core()
        self._prepare, self._answers = model()

    def decode_request(self, request: dict[str, str]) -> Any:
        """Return the picture."""
        return self._prepare(decode(base64.b64decode(request["jpeg"])))

    def batch(self, inputs: Sequence[Any]) -> list[Any]:
        """Leave the pictures as they are: the model takes a list."""
        return list(inputs)

    def predict(self, x: Any) -> Any:
        """Answer one picture or a batch."""
        return self._answers(x) if isinstance(x, list) else self._answers([x])[0]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return one answer for each."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Answer JSON."""
        return output


def main() -> None:
    """Serve until SIGTERM."""
    on_other_core()
    api = Photos(max_batch_size=int(os.environ["BATCH"]), batch_timeout=float(os.environ["BATCH_TIMEOUT"]))
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning"
    )


if __name__ == "__main__":
    main()
