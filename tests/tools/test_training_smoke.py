"""The training command runs from end to end; whether it learns is for its report to say."""

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from tools.demo_training.encoder import FusedAttention

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_a_smoke_run_writes_weights_that_match_the_manifest_and_a_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.train_demo_models", "--smoke", "--out", str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    entries = yaml.safe_load((tmp_path / "models.yaml").read_text())["models"]
    assert {entry["name"] for entry in entries} == {"plants", "containers", "species", "sam"}
    for entry in entries:
        weights = tmp_path / entry["weights"]
        assert entry["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    report = json.loads((tmp_path / "report.json").read_text())
    assert "ap50" in report["plants"]["wild_tiles_320"]
    assert "ap50" in report["containers"]["wild_tiles_320"]
    assert "accuracy" in report["classifier"]
    assert {"box_iou", "point_iou"} <= report["sam"].keys()


def test_attention_for_training_answers_and_learns_as_segment_anything_s_own() -> None:
    torch.manual_seed(4)
    stock = Attention(32, num_heads=4, qkv_bias=True, use_rel_pos=True, input_size=(6, 6))
    for table in (stock.rel_pos_h, stock.rel_pos_w):
        nn.init.normal_(table, std=0.3)
    fused = copy.deepcopy(stock)
    fused.__class__ = FusedAttention
    pictures = torch.randn(2, 6, 6, 32)
    answers = [attention(pictures) for attention in (stock, fused)]
    torch.testing.assert_close(answers[1], answers[0])
    for answer in answers:
        answer.square().sum().backward()
    for mine, theirs in zip(fused.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
