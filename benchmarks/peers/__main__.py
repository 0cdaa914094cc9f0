"""Makes the peers' environment, or leaves it alone if it is there: `python -m benchmarks.peers`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.peers.environment import FOLDER, is_ready, make


def main() -> None:
    """Make the environment, and say where its Python is."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    options.add_argument("--python", default=sys.executable, help="what it is made with (default: this one)")
    options.add_argument("--anew", action="store_true", help="install also if all of it is there already")
    asked = options.parse_args()
    if asked.anew or not is_ready():
        try:
            make(asked.python)
        except subprocess.CalledProcessError as error:
            sys.exit(f"the peers cannot be installed: {error.cmd} ended with {error.returncode}")
    print(FOLDER / "bin" / "python")


if __name__ == "__main__":
    main()
