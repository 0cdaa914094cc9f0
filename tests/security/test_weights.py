"""A model's file runs no code, whatever it is called and however it is packed."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from consumer.app import open_worker
from consumer.models.architectures import ARCHITECTURES
from consumer.models.manifest import ModelEntry
from consumer.models.weights import load
from pipeline_steps.errors import ModelUnavailable
from tests.end_to_end.site import Site

ROOT = Path(__file__).parents[2]


class Bomb:
    """Unpickling it runs code."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> Any:
        return (Path.touch, (self.crater,))


def packed(crater: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the same malicious object in every way a checkpoint is packed, with a file name for it."""
    bomb = {"w": Bomb(crater)}
    for name, zipped in (("zip.pt", True), ("old.pth", False), ("ZIP.pth", True), ("zip.safetensors", True)):
        file = io.BytesIO()
        torch.save(bomb, file, _use_new_zipfile_serialization=zipped)
        yield name, file.getvalue()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"plain{protocol}.pt", pickle.dumps(bomb, protocol)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:  # of before torch 0.4
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(bomb, 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    yield "tar.pt", file.getvalue()


def entry(name: str, data: bytes, **fields: Any) -> ModelEntry:
    known = {
        "name": "m",
        "kind": "classification",
        "architecture": "small_classifier",
        "weights": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "version": "1",
        "classes": ("a", "b"),
        "input_size": 64,
    }
    return ModelEntry.model_validate(known | fields)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_way_of_packing_a_checkpoint_makes_it_run_code(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    tried = 0
    for name, data in packed(crater):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelUnavailable, match="cannot be loaded"):
            load(entry(name, data), tmp_path / name, ARCHITECTURES)
        assert not crater.exists(), name
        tried += 1
    assert tried == 11


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_not_unpickled_either(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    plain = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), plain)  # type: ignore[no-untyped-call]
    file = tmp_path / "m.pt"
    with zipfile.ZipFile(plain) as whole, zipfile.ZipFile(file, "w") as bombed:
        for name in whole.namelist():
            is_pickle = name.endswith(".pkl") and not name.endswith("debug_pkl")
            bombed.writestr(name, pickle.dumps(Bomb(crater), 2) if is_pickle else whole.read(name))

    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(entry("m.pt", file.read_bytes(), kind="torchscript", architecture=""), file, ARCHITECTURES)

    assert not crater.exists()


def test_a_worker_does_not_start_with_a_malicious_model(play: Any, tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    name, data = next(packed(crater))

    async def story(site: Site) -> None:
        (site.models / name).write_bytes(data)
        model = entry(name, data).model_dump(mode="json", exclude_defaults=True)
        (site.models / "models.yaml").write_text(yaml.safe_dump({"models": [model]}))
        with pytest.raises(ModelUnavailable):
            async with open_worker(site.settings(), store=site.store, steps=site.steps, is_local=True):
                await asyncio.sleep(0)

    play(story)
    assert not crater.exists()


def test_nothing_in_the_packages_unpickles_or_evaluates() -> None:
    found = []
    for file in sorted(
        path for name in ("contracts", "pipeline_steps", "consumer") for path in (ROOT / name).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            is_unsafe = (
                called in ("eval", "exec", "compile", "np.load", "numpy.load", "os.system", "os.popen")
                or called.startswith(("pickle.", "marshal.", "shelve.", "dill.", "joblib.", "subprocess."))
                or (called == "torch.load" and given.get("weights_only") != "True")
                or (called == "yaml.load" and given.get("Loader") != "_NoDuplicateKeys")
                or called in ("yaml.unsafe_load", "yaml.full_load")
            )
            if is_unsafe:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno} {called}")

    assert found == []
