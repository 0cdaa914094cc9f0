"""`CALLBACK_AUTH=oidc`: a Google ID token for the backend's own address."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import google.auth.exceptions
import google.auth.transport.requests
from google.oauth2 import id_token

from consumer.errors import CallbackFailed
from consumer.outbound.callback import Signer
from contracts.failure import FailureClass

_LIFETIME = 3000.0
"""Seconds a token is used for; Google's last an hour."""


def oidc_signer() -> Signer:
    """Return a signer whose tokens name the called host as their audience, each kept for most of its life."""
    tokens: dict[str, tuple[str, float]] = {}
    lock = threading.Lock()

    def sign(url: str, body: bytes) -> Mapping[str, str]:
        del body
        parts = urlsplit(url)
        audience = f"{parts.scheme}://{parts.netloc}"
        with lock:
            token, until = tokens.get(audience, ("", 0.0))
            if until < time.monotonic():
                try:
                    request = google.auth.transport.requests.Request()
                    token = id_token.fetch_id_token(request, audience)  # type: ignore[no-untyped-call]
                except google.auth.exceptions.GoogleAuthError as error:
                    raise CallbackFailed(
                        f"no ID token for {audience}: {error}", FailureClass.CONFIGURATION
                    ) from error
                tokens[audience] = token, time.monotonic() + _LIFETIME
        return {"Authorization": f"Bearer {token}"}

    return sign
