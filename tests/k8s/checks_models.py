"""Where models come from: the copier is run here, with folders for volumes and a pretended `gcloud`."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.k8s.catalogue import check
from tests.k8s.manifests import Document, Manifests

_GCLOUD = """#!/bin/sh
test "$1 $2 $3 $4" = "storage rsync --recursive $MODELS_URL" && touch "$5/weights"
"""


@check
def models_are_copied_to_where_the_worker_reads_them(it: Manifests) -> Iterator[str]:
    if it.settings.model_path == "demo":
        return
    copier = it.container_called("copy-models")
    read = {mount["mountPath"]: mount["name"] for mount in it.container["volumeMounts"]}
    if it.settings.model_path not in read:
        yield f"MODEL_PATH={it.settings.model_path}: nothing is mounted there"
        return
    yield from _missing_after_copying(it, copier, read[it.settings.model_path])
    [url] = [variable["value"] for variable in copier["env"] if variable["name"] == "MODELS_URL"]
    buckets = {str(one["spec"]["resourceID"]): one["metadata"]["name"] for one in it.all("StorageBucket")}
    bucket = url.removeprefix("gs://").partition("/")[0]
    [google] = it.all("IAMServiceAccount")
    granted = {name for kind, name, _ in it.grants(f"account:{google['metadata']['name']}")}
    if bucket not in buckets:
        yield f"MODELS_URL: {url} is in none of {sorted(buckets)}"
    elif buckets[bucket] not in granted:
        yield f"the worker may not read bucket {bucket}"


def _missing_after_copying(it: Manifests, copier: Document, volume: str) -> Iterator[str]:
    """Run the copier's command; yield what is then not in the volume that the worker reads."""
    sources = {one["name"]: one for one in it.pod["volumes"]}
    [script] = copier["args"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        here = {one["mountPath"]: folder / "volumes" / one["name"] for one in copier["volumeMounts"]}
        for mount in copier["volumeMounts"]:
            here[mount["mountPath"]].mkdir(parents=True)
            source = sources[mount["name"]]
            files = it.one("ConfigMap", source["configMap"]["name"])["data"] if "configMap" in source else {}
            for file, text in files.items():
                (here[mount["mountPath"]] / file).write_text(text)
        paths = "|".join(sorted(here, key=len, reverse=True))
        script = re.sub(rf"(?<![\w/])({paths})(?![\w-])", lambda found: str(here[found[1]]), script)
        (folder / "gcloud").write_text(_GCLOUD)
        (folder / "gcloud").chmod(0o755)
        variables = {one["name"]: one["value"] for one in copier["env"]}
        variables["PATH"] = f"{folder}:{os.environ['PATH']}"
        done = subprocess.run(
            [*copier["command"], script],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            yield f"copying ends with {done.returncode}: {done.stderr.strip()}"
        read = folder / "volumes" / volume
        there = {file.name for file in read.iterdir()} if read.is_dir() else set()
        yield from (f"{file} is not copied" for file in sorted({"models.yaml", "weights"} - there))
