"""What is known of a generation of an object that is a file, beyond its bytes: a small file of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_steps.errors import StoreMisconfigured


class Sidecar(BaseModel):
    """What a file cannot hold of an object."""

    model_config = ConfigDict(frozen=True)

    name: str
    content_type: str
    metadata: dict[str, str]
    crc32c: str


def sidecar_path(folder: Path, name: str, generation: int) -> Path:
    """Return where the sidecar of an object's generation lies; `folder` is the bucket's for book-keeping."""
    # Hashed: a name's folders cannot clash with another name's file here.
    digest = hashlib.sha256(name.encode()).hexdigest()
    return folder / digest[:2] / f"{digest[2:]}-{generation}.json"


def read_sidecar(file: Path) -> Sidecar | None:
    """Return what the file says, or None for what was dropped or edited by hand.

    Raises:
        StoreMisconfigured: it is not one of ours.
    """
    try:
        return Sidecar.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise StoreMisconfigured(f"{file} is not what the store wrote: {error}") from error
