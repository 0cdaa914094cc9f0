"""Weights: fetched once, checked before every load, never unpickled."""

from __future__ import annotations

import asyncio
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from consumer.models import weights
from consumer.models.architectures import ARCHITECTURES
from consumer.models.manifest import Manifest, ModelEntry, load_manifest
from consumer.models.weight_files import CheckedFile, WeightCache
from consumer.models.weights import load
from pipeline_steps.errors import ModelUnavailable
from tests.models.random_models import ModelFolder, network, sha256


def entry(**fields: Any) -> ModelEntry:
    known = {
        "name": "m",
        "kind": "classification",
        "architecture": "small_classifier",
        "weights": "m.pt",
        "sha256": "0" * 64,
        "version": "1",
        "classes": ("a", "b"),
        "input_size": 64,
    }
    return ModelEntry.model_validate(known | fields)


def load_file(file: Path, **fields: Any) -> nn.Module:
    """Load a file under its own sha256."""
    return load(entry(weights=file.name, sha256=sha256(file), **fields), file, ARCHITECTURES)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


@pytest.fixture
def trained() -> nn.Module:
    return network("small_classifier", 2)


@pytest.fixture
def file(tmp_path: Path, trained: nn.Module) -> Path:
    torch.save(trained.state_dict(), tmp_path / "m.pt")
    return tmp_path / "m.pt"


def test_sixteen_bit_weights_become_float32(folder: ModelFolder) -> None:
    file = folder.add("plants", "detection", "fcos_small", classes=2)
    manifest = load_manifest(folder.path)

    loaded = load(manifest.models["plants"], file, ARCHITECTURES)

    expected = network("fcos_small", 2).half().float().state_dict()
    found = loaded.state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(found[key], value) for key, value in expected.items() if value.is_floating_point())
    assert not loaded.training


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_saved_by_torch_loads_whether_old_or_new(
    tmp_path: Path, trained: nn.Module, zipped: bool
) -> None:
    file = tmp_path / "m.pth"
    torch.save(trained.state_dict(), file, _use_new_zipfile_serialization=zipped)

    assert same(load_file(file), trained)


def test_the_original_checkpoint_format_of_sam_loads(tmp_path: Path) -> None:
    stock = network("vit_b")
    file = tmp_path / "sam_vit_b.pth"
    torch.save(stock.state_dict(), file)

    loaded = load_file(file, kind="sam", architecture="vit_b", classes=(), input_size=1024)

    assert same(loaded, stock)
    # Not in any checkpoint, and easily lost where networks are built without memory.
    assert torch.equal(loaded.pixel_mean, stock.pixel_mean)  # type: ignore[arg-type]
    assert loaded.pixel_mean.device.type == "cpu"


def test_a_network_is_built_without_random_numbers(file: Path) -> None:
    before = torch.random.get_rng_state()

    load_file(file)

    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_stays_tied_to_the_file(file: Path, trained: nn.Module) -> None:
    loaded = load_file(file)
    with file.open("r+b") as stream:  # in place, as a careless copy does it
        stream.truncate(0)

    assert same(loaded, trained)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_run_only_where_one_is_declared(tmp_path: Path) -> None:
    file = tmp_path / "m.pt"
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    torch.jit.script(plain).save(str(file))  # type: ignore[no-untyped-call]
    picture = torch.rand(1, 3, 8, 8)

    loaded = load_file(file, kind="torchscript", architecture="")

    assert torch.equal(loaded(picture), plain(picture))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelUnavailable, match="TorchScript archives"):
            load_file(file)


def test_a_file_that_is_not_the_manifests_is_refused(file: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        load(entry(), file, ARCHITECTURES)

    assert str(caught.value) == f"model 'm': {file} has sha256 {sha256(file)}, expected {'0' * 64}"


def test_a_truncated_file_is_refused(file: Path) -> None:
    whole = sha256(file)
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelUnavailable, match=f"expected {whole}"):
        load(entry(sha256=whole), file, ARCHITECTURES)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.safetensors"])
@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"\x80\x02.", b"{}" * 999, b"\x00" * 64])
def test_a_damaged_file_is_refused_even_if_the_manifest_names_it(
    tmp_path: Path, name: str, data: bytes
) -> None:
    file = tmp_path / name
    file.write_bytes(data)

    with pytest.raises(ModelUnavailable, match=r"model 'm': .* cannot be loaded: "):
        load_file(file)


class Bomb:
    """What a malicious checkpoint holds: unpickling it runs code."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> Any:
        return (Path.touch, (self.crater,))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    crater = tmp_path / "crater"
    bombs = [tmp_path / "zip.pt", tmp_path / "old.pt", tmp_path / "plain.pt"]
    torch.save({"w": Bomb(crater)}, bombs[0])
    torch.save({"w": Bomb(crater)}, bombs[1], _use_new_zipfile_serialization=False)
    bombs[2].write_bytes(pickle.dumps({"w": Bomb(crater)}, protocol=2))

    for bomb in bombs:
        with pytest.raises(ModelUnavailable, match="cannot be loaded"):
            load_file(bomb)

    assert not crater.exists()


def test_weights_of_another_network_are_refused(file: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"not a small_classifier of 3 classes: .*size mismatch"):
        load_file(file, classes=("a", "b", "c"))
    with pytest.raises(
        ModelUnavailable, match=r"there is no architecture 'small'; expected one of .*fcos_small"
    ):
        load_file(file, architecture="small")


def test_a_training_checkpoint_is_refused_with_what_it_holds(tmp_path: Path, trained: nn.Module) -> None:
    file = tmp_path / "m.pt"
    torch.save({"model": trained.state_dict(), "epoch": 7}, file)

    with pytest.raises(ModelUnavailable, match=r"expected tensors by name .*, found model, epoch"):
        load_file(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"gone\.pt cannot be read: No such file"):
        load(entry(), tmp_path / "gone.pt", ARCHITECTURES)


def test_a_file_that_changes_while_it_is_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = weights._read

    def meddled(path: Path) -> Any:
        state = read(path)
        path.touch()
        return state

    monkeypatch.setattr(weights, "_read", meddled)

    with pytest.raises(ModelUnavailable, match="was changed while it was read"):
        load_file(file)


def test_local_weights_are_used_where_they_are(file: Path) -> None:
    model = entry(sha256=sha256(file))
    manifest = Manifest(str(file.parent), [model])

    found = asyncio.run(WeightCache(file.parent / "cache").fetch(manifest, model))

    assert found == CheckedFile.check(model, file)
    assert found.path == file


def test_a_file_that_was_changed_since_it_was_checked_is_refused(file: Path) -> None:
    model = entry(sha256=sha256(file))
    checked = CheckedFile.check(model, file)
    times = file.stat()
    with file.open("r+b") as stream:  # of the same size, and as old as before
        stream.write(b"x")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(ModelUnavailable, match=r"cannot be loaded|was changed while it was read"):
        load(model, checked, ARCHITECTURES)
    with pytest.raises(ModelUnavailable, match="was changed while it was read"):
        checked.require_unchanged(model)
