"""A start as the libraries' own pages have it, one thing after the other: `python -m benchmarks.g_naive`.

Import, build, load, warm up, open the subscription, say `ready` on standard output. Given are a folder of
`models.yaml` and whether to warm up: `FOLDER yes|no`. The inputs are those that `mlworker run` warms up with.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import yaml
from google.cloud import pubsub_v1
from safetensors.torch import load_file
from segment_anything import SamPredictor, sam_model_registry

from consumer.models.architectures import ARCHITECTURES


def loaded(folder: Path, entry: dict[str, Any]) -> Any:
    """Return a model with its weights."""
    weights = folder / entry["weights"]
    if entry["architecture"] in sam_model_registry:
        return sam_model_registry[entry["architecture"]](checkpoint=str(weights)).eval()
    network = ARCHITECTURES[entry["architecture"]](len(entry.get("classes", ())))
    network.load_state_dict(load_file(weights))
    return network.eval()


def warm_up(network: Any, entry: dict[str, Any]) -> None:
    """Show it what ours is shown: SAM a grey square, the others a grey picture of 4:3."""
    side: int = entry["input_size"]
    if entry["kind"] == "sam":
        sam = SamPredictor(network)
        sam.set_image(np.full((side, side, 3), 128, np.uint8))
        middle, edge = side / 4, side * 3 / 4
        sam.predict(box=np.array([middle, middle, edge, edge]))
        sam.predict(point_coords=np.array([[middle, middle]]), point_labels=np.array([1]))
        points = torch.tensor([[[middle, edge]]] * 4)
        sam.predict_torch(points, torch.ones(4, 1, dtype=torch.int))
        return
    grey = np.full((side * 3 // 4, side, 3), 128, np.uint8)
    picture = torchvision.transforms.functional.to_tensor(grey)
    if entry["kind"] == "detection":
        network([picture])
        return
    network(picture[None])


@torch.no_grad()
def main(folder: Path, *, warms_up: bool) -> None:
    """Get ready, and wait to be ended."""
    torch.set_num_threads(1)
    networks = []
    for entry in yaml.safe_load((folder / "models.yaml").read_text())["models"]:
        network = loaded(folder, entry)
        if warms_up:
            warm_up(network, entry)
        networks.append(network)
    with pubsub_v1.SubscriberClient():
        print("ready", flush=True)
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main(Path(sys.argv[1]), warms_up=sys.argv[2] == "yes")
