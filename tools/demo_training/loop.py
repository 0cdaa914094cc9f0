"""The training loop all models share: a time budget, a cosine schedule, averaged weights, progress lines."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WARM_UP = 60  # steps
DECAY = 0.05
MUON = 2.5
"""How many times AdamW's rate: steps are as long then as AdamW's would be at that rate."""


def train(
    name: str,
    network: nn.Module,
    loss_of_next_batch: Callable[[nn.Module, float], Tensor],
    seconds: float,
    rate: float,
    checkpoint: Path | None = None,
    hidden: Sequence[nn.Parameter] = (),
) -> nn.Module:
    """Train for a time.

    Args:
        name: For the progress lines.
        network: Trained in place.
        loss_of_next_batch: Draws a batch and answers its loss; told which part of the time is over, 0..1.
        seconds: Budget of wall-clock time.
        rate: Highest learning rate.
        checkpoint: Where the averaged weights are written now and then.
        hidden: Matrices that Muon moves, the rest being AdamW's: those of layers that see many tokens.

    Returns:
        The averaged network, which does better than the last one; in evaluation mode.
    """
    network.train()
    averaged = copy.deepcopy(network)
    moving = optimizers(network, hidden)
    started = said = saved = time.monotonic()
    step, smooth = 0, 0.0
    while (spent := time.monotonic() - started) < seconds or step < 2:
        done = min(1.0, spent / seconds)
        present = rate * min(1.0, (step + 1) / WARM_UP) * (0.5 * (1 + math.cos(math.pi * done)) + 0.005)
        loss = loss_of_next_batch(network, done)
        network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 3.0)
        for optimizer, times in moving:
            for group in optimizer.param_groups:
                group["lr"] = times * present
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


def optimizers(
    network: nn.Module, hidden: Sequence[nn.Parameter]
) -> list[tuple[torch.optim.Optimizer, float]]:
    """AdamW, and Muon for hidden matrices, with their parts of the rate; biases and norms do not decay."""
    theirs = {id(matrix) for matrix in hidden}
    matrices = [p for p in network.parameters() if p.ndim > 1 and id(p) not in theirs]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    found: list[tuple[torch.optim.Optimizer, float]] = [(torch.optim.AdamW(groups, betas=(0.9, 0.99)), 1.0)]
    if hidden:
        muon = torch.optim.Muon(hidden, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
        found.append((muon, MUON))
    return found


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
