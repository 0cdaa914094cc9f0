"""The training loop all models share: a time budget, a cosine schedule, averaged weights, progress lines."""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WARM_UP = 60  # steps


def train(
    name: str,
    network: nn.Module,
    loss_of_next_batch: Callable[[nn.Module], Tensor],
    seconds: float,
    rate: float,
    checkpoint: Path | None = None,
    decay: float = 0.05,
) -> nn.Module:
    """Train for a time.

    Args:
        name: For the progress lines.
        network: Trained in place.
        loss_of_next_batch: Draws a batch and answers its loss.
        seconds: Budget of wall-clock time.
        rate: Highest learning rate.
        checkpoint: Where the averaged weights are written now and then.
        decay: Weight decay of matrices; biases and norms have none.

    Returns:
        The averaged network, which does better than the last one; in evaluation mode.
    """
    network.train()
    averaged = copy.deepcopy(network)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    started = said = saved = time.monotonic()
    step, smooth = 0, 0.0
    while (spent := time.monotonic() - started) < seconds or step < 2:
        for group in optimizer.param_groups:
            group["lr"] = (
                rate
                * min(1.0, (step + 1) / WARM_UP)
                * (0.5 * (1 + math.cos(math.pi * min(1.0, spent / seconds))) + 0.005)
            )
        loss = loss_of_next_batch(network)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 3.0)
        optimizer.step()
        step += 1
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        average(averaged, network, min(0.998, step / (step + 20)))
        now = time.monotonic()
        if now - said > 20:
            print(f"{name}: step {step}, {now - started:.0f} s, loss {smooth:.3f}", flush=True)
            said = now
        if checkpoint and now - saved > 120:
            save(averaged, checkpoint)
            saved = now
    print(f"{name}: {step} steps in {time.monotonic() - started:.0f} s, loss {smooth:.3f}", flush=True)
    if checkpoint:
        save(averaged, checkpoint)
    return averaged.eval()


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    """Move the averaged weights a little towards the current ones."""
    current = network.state_dict()
    for key, value in averaged.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(current[key], 1 - keep)
        else:
            value.copy_(current[key])


def save(network: nn.Module, path: Path) -> None:
    """Write a checkpoint."""
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)


def load_part(network: nn.Module, path: Path, prefix: str = "") -> None:
    """Take over the weights below `prefix` whose names and shapes agree, from a checkpoint or an export."""
    own = network.state_dict()
    for key, value in load_file(path).items():
        mine = own.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if mine is not None and mine.shape == value.shape:
            mine.copy_(value)
