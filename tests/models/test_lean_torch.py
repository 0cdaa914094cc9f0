"""The import of torchvision without torch's compiler, each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEAN = "from consumer.models.lean_torch import import_lean\nimport sys\n"


def prints(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", LEAN + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_detector_is_imported_and_answers_without_the_compiler() -> None:
    code = """
import_lean("consumer.models.torch_loader")
import torch
from consumer.models.architectures import ARCHITECTURES
with torch.inference_mode():
    found = ARCHITECTURES["maskrcnn_small"](2)([torch.rand(3, 64, 64)])
print(sorted(found[0])[0], *(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""
    assert prints(code) == ["boxes"]


def test_the_compiler_comes_when_torchvision_asks_for_it() -> None:
    code = """
import_lean("torchvision")
from torchvision.ops import roi_align
before = "torch._dynamo" in sys.modules
says = roi_align.__globals__["is_compile_supported"]("cpu")
from torch._dynamo.utils import is_compile_supported
print(before, "torch._dynamo" in sys.modules, says == is_compile_supported("cpu"))
"""
    assert prints(code) == ["False", "True", "True"]


def test_whatever_else_is_imported_from_it_is_the_compilers_own(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("newer")
    (folder / "newer_torchvision.py").write_text(
        "from torch._dynamo.utils import counters, is_compile_supported"
    )
    code = f"""
sys.path.insert(0, {str(folder)!r})
newer = import_lean("newer_torchvision")
import torch._dynamo.utils as own
print(newer.counters is own.counters, newer.is_compile_supported("cpu") == own.is_compile_supported("cpu"))
"""
    assert prints(code) == ["True", "True"]
