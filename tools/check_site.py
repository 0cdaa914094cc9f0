"""What of the shipped example is left: `kubectl kustomize k8s/overlays/prod | python -m tools.check_site`.

The overlays come filled in with a site that is nobody's, so that they can be read, rendered and tested. This
names every value of it that is still there, and fails until none is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

EXAMPLE = (
    "nursery-prod",
    "nursery-dev",
    "nursery.example",
    "100000000001",
    "100000000002",
    "REGION-docker.pkg.dev/PROJECT",
    "set-by-site",
)
"""Its projects and their numbers, its backend, its image, and what the base leaves to overlays."""
NO_DIGEST = "0" * 64
"""What stands in `models.yaml` where the sha256 of a file of yours belongs."""


def left_open(documents: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield what is still to be filled in."""
    documents = list(documents)
    # The packaged models need no manifest of the site's.
    own_models = not any(_data(document).get("MODEL_PATH") == "demo" for document in documents)
    for document in documents:
        for path, line in _lines(document, ""):
            where = f"{document['kind']} {document['metadata']['name']}: {path}: {line}"
            for word in EXAMPLE:
                if word in line:
                    yield f"{where}: {word} is the example's"
            if own_models and NO_DIGEST in line:
                yield f"{where}: no sha256 of a file"


def _data(document: dict[str, Any]) -> dict[str, Any]:
    return document.get("data", {}) if document["kind"] == "ConfigMap" else {}


def _lines(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every key and every line of every value, with its place; a ConfigMap's files have many."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield path, str(key)
            yield from _lines(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _lines(item, f"{path}.{i}")
    else:
        for line in str(value).splitlines():
            yield path, line.strip()


def main() -> None:
    """Read manifests from standard input."""
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    if not documents:
        sys.exit("no manifests on standard input")
    found = list(left_open(documents))
    print("\n".join(found) or "nothing of the example is left")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
