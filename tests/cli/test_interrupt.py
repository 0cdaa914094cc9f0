"""Ctrl-C ends a command at once, with an exit code of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import COMMAND, bare_environment


def interrupted(arguments: list[str], is_under_way: Callable[[subprocess.Popen[bytes]], bool]) -> int:
    """Press Ctrl-C when the command is under way, and return its exit code."""
    command = [str(COMMAND), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=bare_environment()
    ) as process:
        try:
            end = time.monotonic() + 30
            while not is_under_way(process):
                assert process.poll() is None
                assert time.monotonic() < end, "it does not get under way"
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
            return code
        finally:
            process.kill()


def waits_for_input(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process sleeps in a read of its standard input."""
    return Path(f"/proc/{process.pid}/syscall").read_text().startswith("0 0x0 ")


@pytest.mark.skipif(not Path("/proc/self/syscall").exists(), reason="needs Linux's /proc/PID/syscall")
def test_ctrl_c_while_it_waits_for_standard_input() -> None:
    assert interrupted(["validate", "-"], waits_for_input) == 130


def test_ctrl_c_while_it_waits_for_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    (pipeline := tmp_path / "pipeline.json").write_text('{"steps": []}')
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        silent.settimeout(0.01)

        def has_connected(_: object) -> bool:
            try:
                silent.accept()[0].close()
            except TimeoutError:
                return False
            return True

        arguments = [
            "submit", "--tenant", "acme", "--image", "gs://photos/acme/1.jpg", "--pipeline", str(pipeline),
            "--project", "p", "--topic", "t", "--emulator", f"127.0.0.1:{port}", "--timeout", "60",
        ]  # fmt: skip
        assert interrupted(arguments, has_connected) == 130
