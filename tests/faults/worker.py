"""`mlworker run` as a process that can be killed, frozen, thawed and told to drain."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.command import COMMAND, bare_environment
from tests.peers import free_port

START_SECONDS = 60.0
"""On a busy machine; a second or two otherwise."""


@dataclass
class Worker:
    """A worker's process."""

    popen: subprocess.Popen[bytes]
    log: Path
    port: int
    _reading: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        folder: Path,
        environment: Mapping[str, str],
        *,
        memory_limit: int | None = None,
        reads_log: bool = True,
    ) -> Worker:
        """Start one; its log is a file in `folder`, or a pipe that nobody reads until `read_log`."""
        port = free_port()
        log = folder / f"worker-{port}.log"
        variables = bare_environment(**{**environment, "PORT": str(port)})
        command = [str(COMMAND), "run"]
        if memory_limit is not None:
            command = ["prlimit", f"--as={memory_limit}", *command]
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output if reads_log else subprocess.PIPE,
            )
        return cls(popen, log, port)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        """SIGSTOP: as a virtual machine that is moved."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: as Kubernetes ends a pod."""
        self.popen.send_signal(signal.SIGTERM)

    def until_log(self, message: str) -> None:
        """Wait for an entry of its log: only to find the moment, never to judge by."""
        said = f'"message":"{message}"'
        self.until(lambda: said in self.log.read_text(), f"it to log {message!r}", START_SECONDS)

    def ended(self, seconds: float = 30.0) -> int:
        """Wait for its end and return the exit code; negative for a signal."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker did not end within {seconds:g} s; {self.threads()}; {self.tail()}")

    def threads(self) -> str:
        """What its threads wait for in the kernel, for people."""
        found = [
            f"{(task / 'comm').read_text().strip()}: {(task / 'wchan').read_text()}"
            for task in Path(f"/proc/{self.pid}/task").iterdir()
        ]
        return f"its {len(found)} threads: {', '.join(sorted(found))}"

    def tail(self, lines: int = 15) -> str:
        """The end of its log, for people."""
        return "its log ends with:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body of a probe; 0 while nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def read_log(self) -> None:
        """Read from now on what it writes into the pipe."""
        pipe = self.popen.stderr
        assert pipe is not None

        def copy() -> None:
            with self.log.open("wb") as log:
                shutil.copyfileobj(pipe, log)

        self._reading = threading.Thread(target=copy, daemon=True)
        self._reading.start()

    @property
    def ready(self) -> bool:
        return self.ask("/readyz")[0] == 200

    def failing(self) -> dict[str, str]:
        """What /readyz says is wrong, by name."""
        status, body = self.ask("/readyz")
        return dict(json.loads(body)["failing"]) if status else {"": body}

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        """Wait for a condition, as long as the process lives."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.alive, f"waiting for {what}, it ended with {self.popen.returncode}; {self.tail()}"
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}; {self.tail()}"
            time.sleep(0.02)
        return found

    def until_ready(self) -> Self:
        self.until(lambda: self.ready, "it to be ready", START_SECONDS)
        return self

    def metric(self, name: str, **labels: str) -> float:
        """One number of its metrics; 0 where there is none yet."""
        found = 0.0
        for line in self.ask("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
                found += float(value)
        return found

    def memory(self) -> int:
        """Bytes it holds in memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * 4096

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._reading is not None:
            self._reading.join()  # to the end of what was written
        if self.popen.stderr is not None:
            self.popen.stderr.close()
