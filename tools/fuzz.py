"""Coverage-guided fuzzing of what reads messages: `python -m tools.fuzz --seconds 300`.

It needs atheris (`pip install mlworker[fuzz]`). Inputs that reach new code are kept in the temporary
folder; `--merge` adds those of them that are refused in a way that no input of the committed corpus is, which
the tests check too. What breaks a promise is written to `fuzz-failures/` and ends the run.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent.parent / "tests" / "faults" / "corpus"
FOUND = Path(tempfile.gettempdir()) / "mlworker-fuzz-corpus"


class BrokenPromise(AssertionError):
    """An input was neither understood nor refused with a path for every problem."""


def check(data: bytes) -> str:
    """Read a message's bytes as the worker does, and say what they are.

    Returns:
        `job`, `ignored`, `malformed` or `invalid`: the first two would be worked on, the others given up.

    Raises:
        BrokenPromise: a problem has no path or no words.
        Exception: whatever the readers should not have raised.
    """
    return read(data)[0]


def read(data: bytes) -> tuple[str, list[str]]:
    """Do the same, and return the words of all problems too.

    Raises:
        BrokenPromise: a problem has no path or no words.
        Exception: whatever the readers should not have raised.
    """
    from consumer.broker import Delivery
    from consumer.decode import Decoder
    from consumer.errors import MalformedMessage
    from consumer.jobs import Job
    from consumer.pipeline.parse import InvalidPipeline, parse
    from consumer.presets import load_presets
    from consumer.routes import Routes
    from pipeline_steps.loading import load_steps

    if "decoder" not in _made:
        _made["decoder"] = Decoder(load_presets(None), Routes(()), 10_000_000)
        _made["steps"] = load_steps(plugins=False)
    decoder, steps = _made["decoder"], _made["steps"]
    delivery = Delivery("ack", "1", data, {}, datetime(2026, 1, 1, tzinfo=UTC), None)
    try:
        decoded = decoder.decode(delivery)
        if not isinstance(decoded, Job):
            return "ignored", []
        parse(decoded.definition, steps, settings=decoded.settings)
    except MalformedMessage as error:
        problems, kind = error.problems, "malformed"
    except InvalidPipeline as error:
        problems, kind = error.problems, "invalid"
    else:
        return "job", []
    if not problems or not all(problem.path and problem.message for problem in problems):
        raise BrokenPromise(f"{data[:200]!r} was refused without saying what is wrong where: {problems}")
    return kind, [problem.message for problem in problems]


_made: dict[str, Any] = {}


def main() -> None:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--merge", action="store_true", help="add what the last runs found to the corpus")
    options = parser.parse_args()
    if options.merge:
        merge()
        return
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install 'mlworker[fuzz]'")
    with atheris.instrument_imports(include=["consumer", "contracts", "pipeline_steps"]):
        check(b"{}")
    failures = Path("fuzz-failures")
    for folder in (FOUND, failures):
        folder.mkdir(parents=True, exist_ok=True)
    arguments = [sys.argv[0], f"-artifact_prefix={failures}/", "-max_len=4096", "-timeout=5"]
    atheris.Setup([*arguments, f"-max_total_time={options.seconds}", str(FOUND), str(CORPUS)], check_quietly)
    atheris.Fuzz()


def merge() -> None:
    """Add to the corpus the shortest input of each kind of refusal that it does not have yet."""
    known = {manner_of(file.read_bytes()) for file in CORPUS.iterdir()}
    for file in sorted(FOUND.iterdir(), key=lambda file: (file.stat().st_size, file.name)):
        data = file.read_bytes()
        manner = manner_of(data)
        if manner not in known:
            known.add(manner)
            (CORPUS / file.name[:12]).write_bytes(data)
            print(file.name[:12], *manner, sep="\n    ")


def manner_of(data: bytes) -> tuple[str, ...]:
    """In which way an input is read or refused, whatever names and numbers it holds."""
    kind, words = read(data)
    return kind, *sorted({re.sub(r"'[^']*'|\d+|known: .*|: line.*", "~", said)[:60] for said in words})


def check_quietly(data: bytes) -> None:
    """`check`, as the fuzzer calls it."""
    check(data)


if __name__ == "__main__":
    main()
