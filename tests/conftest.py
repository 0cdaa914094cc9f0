"""The peers that several suites share."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import structlog

from tests.peers import fake_gcs_server, pubsub_emulator


def pytest_configure() -> None:
    """Hear Ctrl-C again where a shell started us in the background: what we start would be deaf to it too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-size", action="store_true", help="times as long as what is promised: minutes, not seconds"
    )


@pytest.fixture(scope="session")
def google_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Pub/Sub emulator of our own."""
    with pubsub_emulator(tmp_path_factory.mktemp("emulator")) as address:
        yield address


@pytest.fixture(scope="session")
def fake_gcs() -> Iterator[str]:
    """The url of a fake-gcs-server of our own."""
    with fake_gcs_server() as url:
        yield url


@pytest.fixture
def logs() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()
