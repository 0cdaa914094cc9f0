"""`mlworker run` as operators run it: a process of its own, told everything by its environment."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from consumer.ops.health import serving
from tests.command import COMMAND, bare_environment
from tests.end_to_end.site import Backend
from tests.peers import free_port


@dataclass
class Process:
    """A worker's process, its logs and its probes."""

    popen: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path
    port: int
    warming_up: list[tuple[int, int]] = field(default_factory=list)
    """What /startupz and /readyz answered before it was ready."""

    def lines(self) -> list[str]:
        """The lines of its log that are complete."""
        return self.stderr.read_text().split("\n")[:-1]

    def logs(self, message: str | None = None) -> list[dict[str, Any]]:
        """Its log, or the entries with that message."""
        lines = self.lines()
        try:
            entries = [json.loads(line) for line in lines]
        except ValueError:
            pytest.fail("a line of the log is not JSON:\n" + "\n".join(lines))
        return [entry for entry in entries if message in (None, entry["message"])]

    def ask(self, probe: str) -> tuple[int, str]:
        """Status and body of a probe; 0 while nobody answers."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/{probe}", timeout=10, trust_env=False)
        except httpx.TransportError as error:
            return 0, str(error)
        return answer.status_code, answer.text

    def handled(self) -> Mapping[str, int]:
        """How often deliveries ended in which way, as its metrics tell; the ways in which some did."""
        lines = self.ask("metrics")[1].splitlines()
        found = [line.split('"') for line in lines if line.startswith("mlworker_messages_total{")]
        ended = {outcome: int(float(rest.removeprefix("} "))) for _, outcome, rest in found}
        return {outcome: count for outcome, count in ended.items() if count}

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        """Wait for a condition, as long as the process lives."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            log = "\n".join(self.lines()[-8:])
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}; {log}"
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; {log}"
            time.sleep(0.02)
        return found

    def until_ready(self) -> None:
        def is_ready() -> bool:
            self.warming_up.append((self.ask("startupz")[0], self.ask("readyz")[0]))
            return self.warming_up[-1] == (200, 200)

        self.until(is_ready, "it to be ready", 60)

    def ended(self, seconds: float) -> int:
        """Wait for its end and return the exit code."""
        return self.popen.wait(seconds)


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[Process]:
    """Run a worker while the context lasts; at its end it is killed, if it has not ended by itself."""
    folder.mkdir()
    port = free_port()
    environment = bare_environment(PORT=str(port), DEVICES="cpu", **variables)
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        popen = subprocess.Popen([str(COMMAND), "run"], env=environment, stdout=out, stderr=err)
    try:
        yield Process(popen, folder / "stdout", folder / "stderr", port)
    finally:
        popen.kill()
        popen.wait()


@contextmanager
def recording_backend() -> Iterator[tuple[Backend, str]]:
    """A backend on a thread of its own, and its url."""
    backend, started, stop = Backend(), threading.Event(), asyncio.Event()
    urls: list[str] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        app = Starlette(routes=[Route("/{path:path}", backend.post, methods=["POST"])])
        async with serving(app, "127.0.0.1", 0) as port:
            urls.append(f"http://127.0.0.1:{port}")
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10), "the backend does not listen"
        yield backend, urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
