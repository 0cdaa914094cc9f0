"""The backend: whether it may be called, whether it can be reached, and whether calls can be signed.

Nothing is ever posted: a callback that says nothing true would be believed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.auth.exceptions import GoogleAuthError

from consumer.doctor.checks import Findings, Skip, Unreachable, check
from consumer.doctor.connection import CannotConnect, Target
from consumer.doctor.findings import error, info, ok, seconds, skipped, warning
from consumer.doctor.once import aside
from consumer.doctor.site import Site
from consumer.errors import CallbackFailed
from consumer.outbound.hosts import AllowedHost
from consumer.outbound.oidc import audience_of, fetch_token
from consumer.redaction import redacted
from consumer.settings import InvalidSettings

_EXPIRES_SOON = timedelta(days=14)
_SHORT_KEY = 32


@check("callback.hosts", fix="BACKEND_URL or CALLBACK_ALLOWED_HOSTS", needs_network=False)
async def hosts(site: Site) -> Findings:
    """BACKEND_URL may be called, and CALLBACK_ALLOWED_HOSTS can be read.

    The worker does not start with a backend it may not call: itself, the metadata server, or a url with
    credentials in it.
    """
    unreadable = False
    for setting, entry in site.host_entries():
        try:
            AllowedHost.parse(entry)
        except ValueError as wrong:
            unreadable = True
            yield error(setting, str(wrong), "a host, without path or password", setting)
    if unreadable:
        return
    allowed, backend = site.hosts(), site.settings.backend_url
    if backend == "none":
        yield info("BACKEND_URL", "none: only messages and routes that name a url are called back")
        return
    try:
        allowed.check(str(backend))
    except CallbackFailed as refused:
        yield error("BACKEND_URL", str(refused), "a host that may be called")
        return
    if backend.scheme == "http" and not site.is_local:
        yield warning("BACKEND_URL", "plain http: results and signatures can be read on their way", "https")
    else:
        yield ok("BACKEND_URL", f"{backend.scheme}://{backend.host}:{backend.port}")


@check("callback.reachable", fix="look at the host, its port, and the way to it")
async def reachable(site: Site) -> Findings:
    """The backend's name resolves, its port accepts a connection, and its certificate is trusted.

    Without the backend, work is finished and recorded, and then held. It counts where the command is run: the
    way from a laptop is another than from a pod.
    """
    for setting, target in _targets(site):
        say = error if setting == "BACKEND_URL" else warning
        try:
            connection = await site.connection(target)
        except CallbackFailed as refused:
            yield say(setting, str(refused), "an address of a backend")
        except CannotConnect as trouble:
            yield say(setting, str(trouble), f"a connection to {target}", trouble.fix)
        else:
            how = f", {connection.tls}" if connection.tls else ""
            yield ok(setting, f"{target} answers ({connection.address}{how})")


@check("callback.certificate", fix="renew the certificate")
async def certificate(site: Site) -> Findings:
    """The backend's certificate is valid for another two weeks.

    The day it expires every callback fails, and everything is held.
    """
    for setting, target in _targets(site):
        try:
            until = (await site.connection(target)).valid_until
        except (CannotConnect, CallbackFailed):
            yield skipped(setting, "see callback.reachable")
            continue
        if until is None:
            continue
        left = until - datetime.now(UTC)
        found = f"the certificate of {target.host} is valid until {until:%Y-%m-%d}"
        if left < _EXPIRES_SOON:
            yield warning(setting, found, f"{seconds(_EXPIRES_SOON)} from now at least")
        else:
            yield ok(setting, found)


@check(
    "callback.key",
    fix="CALLBACK_HMAC_KEY_FILE: a file with the key, such as `openssl rand -hex 32` writes",
    needs_network=False,
)
async def key(site: Site) -> Findings:
    """With CALLBACK_AUTH=hmac: the key can be read, and is long enough.

    The worker does not start without the key.
    """
    if site.settings.callback_auth != "hmac" or site.settings.callback_hmac_key_file is None:
        return
    path = site.settings.callback_hmac_key_file
    try:
        length = len(path.read_bytes().strip())
    except OSError as failed:
        yield error(
            "CALLBACK_HMAC_KEY_FILE", f"{path} cannot be read: {failed.strerror}", "a file with the key"
        )
        return
    if not length:
        yield error("CALLBACK_HMAC_KEY_FILE", f"{path} is empty", "a key")
    elif length < _SHORT_KEY:
        yield warning("CALLBACK_HMAC_KEY_FILE", f"a key of {length} bytes", f"at least {_SHORT_KEY}")
    else:
        yield ok("CALLBACK_HMAC_KEY_FILE", f"a key of {length} bytes")


@check("callback.oidc", fix="run as a service account: Workload Identity in the pod, or a key file")
async def oidc(site: Site) -> Findings:
    """With CALLBACK_AUTH=oidc: an ID token for the backend can be had.

    Google gives ID tokens to service accounts only, not to people's own credentials. Without one no callback
    is made, and everything is held.
    """
    if site.settings.callback_auth != "oidc":
        return
    backend = site.settings.backend_url
    if backend == "none":
        raise Skip("BACKEND_URL is none: there is nobody to ask a token for")
    audience = audience_of(str(backend))
    try:
        await aside(lambda: fetch_token(audience))
    except GoogleAuthError as failed:
        yield error(
            "CALLBACK_AUTH", f"no ID token for {audience}: {redacted(str(failed))[:1000]}", "an ID token"
        )
    else:
        yield ok("CALLBACK_AUTH", f"an ID token for {audience} was given")


def _targets(site: Site) -> list[tuple[str, Target]]:
    """Return the hosts the operator named exactly, each with the setting that names it."""
    try:
        allowed = site.hosts()
    except InvalidSettings as wrong:
        raise Unreachable("callback.hosts") from wrong
    found: dict[Target, str] = {}
    backend = site.settings.backend_url
    if backend != "none":
        try:
            host = allowed.check(str(backend))
        except CallbackFailed as refused:
            raise Unreachable("callback.hosts") from refused
        https = backend.scheme == "https"
        found[Target(host, backend.port or (443 if https else 80), https)] = "BACKEND_URL"
    for entry in allowed.entries:
        if not entry.is_wildcard:
            port = entry.port or (80 if entry.plain_http else 443)
            found.setdefault(Target(entry.host, port, not entry.plain_http), "CALLBACK_ALLOWED_HOSTS")
    return [(setting, target) for target, setting in found.items()]
