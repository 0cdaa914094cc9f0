"""The backend's callback as the settings have it: which hosts may be called, and how we say who we are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumer.errors import CallbackFailed
from consumer.outbound.callback import Backend, Signer, hmac_signer, unsigned
from consumer.outbound.hosts import AllowedHosts
from consumer.outbound.pinned import PinnedTransport
from consumer.settings import InvalidSettings, Settings


@asynccontextmanager
async def open_backend(settings: Settings, *, is_local: bool) -> AsyncIterator[Backend]:
    """Yield what calls back, with connections of its own.

    Args:
        settings: what the environment says.
        is_local: whether this machine may be called.

    Raises:
        InvalidSettings: a host or a key cannot be used.
    """
    base, hosts = _hosts(settings, is_local=is_local)
    signer = _signer(settings)
    async with PinnedTransport(hosts) as transport:
        yield Backend(transport, settings.backend_callback_timeout, base, hosts, signer)


def _hosts(settings: Settings, *, is_local: bool) -> tuple[str | None, AllowedHosts]:
    base = None if settings.backend_url == "none" else str(settings.backend_url)
    entries = (*settings.callback_allowed_hosts, *([base] if base else []))
    try:
        hosts = AllowedHosts.of(entries, allow_loopback=is_local)
    except ValueError as error:
        raise InvalidSettings(f"CALLBACK_ALLOWED_HOSTS: {error}") from error
    try:
        if base:
            hosts.check(base)
    except CallbackFailed as error:
        # Else every message would be given up for it.
        hint = "; this machine's own addresses only with PUBSUB_EMULATOR_HOST"
        raise InvalidSettings(f"BACKEND_URL: {error}{hint}") from error
    return base, hosts


def _signer(settings: Settings) -> Signer:
    match settings.callback_auth:
        case "hmac":
            if settings.callback_hmac_key_file is None:
                raise InvalidSettings("CALLBACK_HMAC_KEY_FILE: required with CALLBACK_AUTH=hmac")
            try:
                key = settings.callback_hmac_key_file.read_bytes().strip()
            except OSError as error:
                raise InvalidSettings(f"CALLBACK_HMAC_KEY_FILE: cannot be read: {error}") from error
            if not key:
                raise InvalidSettings(f"CALLBACK_HMAC_KEY_FILE: {settings.callback_hmac_key_file} is empty")
            return hmac_signer(key)
        case "oidc":
            from consumer.outbound.oidc import oidc_signer

            return oidc_signer()
        case "none":
            return unsigned
