"""Ports of this machine."""

from __future__ import annotations

import socket


def check_free(host: str, port: int) -> None:
    """Find out early that a port is taken: servers say it late, at length, or by ending the process.

    Raises:
        OSError: naming the port.
    """
    with socket.socket() as probe:
        # As servers ask for it: connections that are just closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
