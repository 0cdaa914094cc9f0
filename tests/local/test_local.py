"""`mlworker local`: the examples that it prints work, and what is dropped into the inbox is processed."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from consumer.local.local import run_local
from consumer.local.photos import generated_photo

CODE = """
import asyncio, sys
from pathlib import Path
from consumer.local.local import run_local
sys.exit(asyncio.run(run_local(port=0, inbox=Path(sys.argv[1]), backend_port=0)))
"""


@dataclass(frozen=True)
class Running:
    """`mlworker local` in a process of its own."""

    process: subprocess.Popen[str]
    inbox: Path
    temporary: Path
    printed: str

    @property
    def url(self) -> str:
        return "http://" + self.printed.partition("http://")[2].partition("/")[0]

    def example(self, start: str) -> str:
        """Return the printed command that starts so, up to the next empty line."""
        return self.printed[self.printed.index(f"\n{start}") :].strip().split("\n\n")[0]

    def callback_about(self, image_id: str) -> dict[str, Any]:
        return self.wait(lambda callback: callback["body"]["imageId"] == image_id)

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 30.0) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for callback in httpx.get(f"{self.url}/callbacks").json()["callbacks"]:
                if wanted(callback):
                    found: dict[str, Any] = callback
                    return found
            time.sleep(0.1)
        pytest.fail(f"no such callback in {timeout:.0f} s")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("local")
    inbox, temporary = folder / "inbox", folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(inbox)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            printed = _read_until(process, "result())\nEND")
            assert printed is not None, (folder / "log").read_text()
            yield Running(process, inbox, temporary, printed)
        finally:
            process.kill()


def _read_until(process: subprocess.Popen[str], last: str) -> str | None:
    """Return what the process prints up to `last`; None if it ends before."""
    assert process.stdout is not None
    printed = ""
    while last not in printed:
        line = process.stdout.readline()
        if not line:
            return None
        printed += line
    return printed


def shell(command: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_photo_dropped_into_the_inbox_is_processed(running: Running) -> None:
    generated_photo(4, 0, running.inbox / "green-valley" / "originals", 480, 640)

    callback = running.wait(lambda callback: callback["tenant_id"] == "green-valley")
    image_id = callback["body"]["imageId"]
    picture = httpx.get(f"{running.url}/pictures/green-valley/{image_id}.jpg")

    assert callback["event"] == "result"
    assert callback["body"]["detections"]
    assert picture.content.startswith(b"\xff\xd8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_printed_curl_example_works(running: Running) -> None:
    answer = shell(running.example("curl "))

    image_id = re.findall(r'"image_id":"([^"]+)"', answer)[0]
    assert running.callback_about(image_id)["body"]["detections"]


def test_the_printed_python_example_works(running: Running) -> None:
    before = httpx.get(f"{running.url}/callbacks").json()["effective"]

    message_id = shell(running.example("PUBSUB_EMULATOR_HOST="))

    assert int(message_id) > 0
    running.wait(lambda _: httpx.get(f"{running.url}/callbacks").json()["effective"] > before)


def test_the_page_is_there(running: Running) -> None:
    page = httpx.get(running.url)

    assert page.status_code == 200
    assert str(running.inbox) in page.text


def test_ctrl_c_ends_it_as_interrupted_and_leaves_nothing_behind(running: Running) -> None:
    running.process.send_signal(signal.SIGINT)

    assert running.process.wait(30) == 130
    assert list(running.temporary.glob("mlworker-local-*")) == []


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Commands configure logging for their whole process; here that is other tests' too."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**before)
    root.handlers, root.level = handlers, level


@pytest.mark.usefixtures("logging_restored")
def test_a_taken_port_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        pubsub = asyncio.run(run_local(port=port, inbox=tmp_path, backend_port=0))
        backend = asyncio.run(run_local(port=0, inbox=tmp_path, backend_port=port))

    assert (pubsub, backend) == (2, 2)
    assert capsys.readouterr().err.count(str(port)) == 2
