"""The models: manifest, weights and devices, without loading any of them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from consumer.doctor.checks import Findings, Skip, check
from consumer.doctor.findings import Finding, error, info, ok, warning
from consumer.doctor.once import aside
from consumer.doctor.site import Site
from consumer.models.manifest import InvalidManifest, ModelEntry
from pipeline_steps.errors import StepError

MOST_DOWNLOADED = 64_000_000
"""Bytes of remote weights that are worth downloading to compare their sha256; the worker always does."""
SIMULATED = "simulated"
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_GPU = re.compile(r"nvidia\d+")


@check("models.manifest", fix="MODEL_PATH, or the models.yaml in it: docs/models.md", needs_network=False)
async def manifest(site: Site) -> Findings:
    """MODEL_PATH holds a models.yaml that can be used.

    The worker does not start without it.
    """
    try:
        found = await site.read_manifest()
    except InvalidManifest as wrong:
        for problem in wrong.problems:
            yield error(wrong.source, problem, "a usable models.yaml")
    except StepError as failed:
        yield error(site.settings.model_path, str(failed), "a models.yaml that can be read")
    else:
        yield ok(site.settings.model_path, f"{len(found.models)} models: {', '.join(found.models) or 'none'}")


@check(
    "models.weights",
    fix="put the file there again, or write its sha256 into models.yaml",
    needs_network=False,
    limit=120.0,
)
async def weights(site: Site) -> Findings:
    """Every model's weights are there, and are what models.yaml says.

    A pinned model whose weights are missing or changed keeps the worker from starting; a lazy one has the
    messages that ask for it wait. Remote weights over 64 MB are only looked for.
    """
    found = await site.manifest()
    if any(name.startswith(SIMULATED) for name in site.settings.devices):
        raise Skip("simulated devices read no weights")
    for model in found.models.values():
        where = found.location(model)
        yield await (_remote(site, model, where) if "://" in where else _local(model, where))


@check("models.devices", fix="DEVICES: cpu, or cuda:N for each GPU", needs_network=False)
async def devices(site: Site) -> Findings:
    """DEVICES names devices this machine can have, each once.

    The worker does not start with a device that is not there. Run this in the worker's pod: elsewhere there
    may be other GPUs.
    """
    names = site.settings.devices
    gpus = [path.name for path in site.device_folder.glob("nvidia*") if _GPU.fullmatch(path.name)]
    here = f"{len(gpus)} GPUs here"
    if not names:
        yield info("DEVICES", f"not set: all GPUs, else the CPU; {here}")
        return
    unknown = [name for name in names if not name.startswith(SIMULATED) and not _DEVICE.fullmatch(name)]
    if unknown:
        yield error("DEVICES", f"{', '.join(unknown)}: no such device", "cpu or cuda:N")
    if len(set(names)) < len(names):
        yield error("DEVICES", f"{','.join(names)}: one is named twice", "each once")
    asked = [name for name in names if name.startswith("cuda")]
    missing = [name for name in asked if int(name.partition(":")[2] or 0) >= len(gpus)] if not unknown else []
    if missing:
        yield warning("DEVICES", f"{', '.join(missing)}: not on this machine ({here})", "GPUs that are there")
    elif not unknown:
        yield ok("DEVICES", ", ".join(names))


async def _local(model: ModelEntry, file: str) -> Finding:
    try:
        digest = await aside(lambda: _sha256(file))
    except OSError as failed:
        return error(f"model {model.name}", f"{file} cannot be read: {failed.strerror}", "a file of weights")
    return _compared(model, file, digest)


async def _remote(site: Site, model: ModelEntry, url: str) -> Finding:
    bucket, _, name = url.removeprefix("gs://").partition("/")
    try:
        store = await site.object_store()
        size = (await store.stat(bucket, name)).size
        if size > MOST_DOWNLOADED:
            return info(
                f"model {model.name}", f"{url} is there; {size} bytes are not downloaded to be compared"
            )
        data = (await store.read(bucket, name)).data
    except StepError as failed:
        return error(f"model {model.name}", f"{url} cannot be read: {failed}", "a file of weights")
    return _compared(model, url, hashlib.sha256(data).hexdigest())


def _compared(model: ModelEntry, where: str, digest: str) -> Finding:
    if digest != model.sha256:
        return error(
            f"model {model.name}", f"{where} has sha256 {digest}", f"{model.sha256}, as models.yaml says"
        )
    return ok(f"model {model.name}", f"{where} is what models.yaml says")


def _sha256(file: str) -> str:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
