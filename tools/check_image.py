"""Look from inside an image whether its packages fit together; `tools/try_image.sh` sends this to its Python.

What `pip check` says, without pip, which the image does not have. Torch's own lock is left out: it is not
installed where the image is only tried.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from importlib.util import find_spec

LEFT_OUT = re.compile(r"torch|torchvision|triton|(nvidia|cuda)-.*")


def problems() -> list[str]:
    """Return what is missing, and what is there that should not be."""
    found = [f"{name} is still installed" for name in ("pip", "wheel", "hatchling") if find_spec(name)]
    for one in distributions():
        for asked in requires(one.name) or ():
            name = re.split(r"[^\w.-]", asked, maxsplit=1)[0]
            if ";" in asked or LEFT_OUT.fullmatch(name.lower().replace("_", "-")):
                continue  # what stands behind a marker is for other machines or for extras
            try:
                version(name)
            except PackageNotFoundError:
                found.append(f"{one.name} needs {asked}, which is not installed")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems()) or 0)
