"""Plug-in packages for tests: what an installation leaves behind, written by hand."""

from __future__ import annotations

from pathlib import Path

GREET = '''
from pydantic import Field

from pipeline_steps.artifacts import Detections, Image
from pipeline_steps.registry import StepParams, step


class GreetParams(StepParams):
    """What is said."""

    greeting: str = Field("hello", description="A word or two.")


@step("greet")
def greet(image: Image, params: GreetParams) -> Detections:
    """Greet the picture, and find nothing on it."""
    return Detections.none()
'''

HOLD = '''
import time
from pathlib import Path

from pydantic import Field

from pipeline_steps.artifacts import Detections, Image
from pipeline_steps.registry import StepParams, step


class HoldParams(StepParams):
    """Where to look."""

    folder: str = Field(description="A file `started` is made in it, and `gate` is waited for.")


@step("hold")
def hold(image: Image, params: HoldParams) -> Detections:
    """Keep a thread until a file is there."""
    folder = Path(params.folder)
    (folder / "started").touch()
    while not (folder / "gate").exists():
        time.sleep(0.01)
    return Detections.none()
'''


def install(folder: Path, source: str, *, name: str = "nursery_steps") -> Path:
    """Put a package with one module into `folder`, as `pip install --target` would, and return the folder."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "steps.py").write_text(source)
    dist = folder / f"{name}-1.2.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n")
    (dist / "entry_points.txt").write_text(f"[mlworker.steps]\nnursery = {name}.steps\n")
    return folder
