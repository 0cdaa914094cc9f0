"""What must never be shown: secrets are cut out of texts that leave in logs, errors and results.

Nothing of ours puts a secret into a text. But we quote others: a backend's answer may repeat the headers it
was sent, an exception the url it was called with. So quotes are searched for the very values that were sent,
and every line of the log for what is a secret by its looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "[hidden]"

_SHORTEST = 6
"""A value shorter than this is no secret, and would be found in every other word."""

# Each also ends at a quote or a backslash: a line of JSON stays one. And none may look far ahead from many
# places: a text that was made for it would take minutes.
_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^\"]*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=\\?\")|\Z)"
        ),
        HIDDEN,
    ),
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"), HIDDEN),  # a JSON web token
    (re.compile(r"(\bbearer\s+)[\w.~+/=-]{16,}", re.IGNORECASE), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(\bauthorization['\"\\]{0,3}\s*[:=]\s*['\"\\]{0,3}(?:basic|digest|token|\w+key)\s+)[^\s\"'\\,}]+",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\bya29\.[\w-]+"), HIDDEN),  # a Google access token
    (re.compile(r"\bAIza[\w-]{35}"), HIDDEN),  # a Google API key
    (re.compile(r"\bsha256=[0-9a-f]{16,}"), f"sha256={HIDDEN}"),  # our own signature
    (re.compile(r"(://)[^/\s@\"'\\]+@"), rf"\1{HIDDEN}@"),
    # A signed url's key is in its query; all of it is cut, since any name may be the key's.
    (re.compile(r"(\bhttps?://[^\s?\"'\\<>]{0,2048}\?)[^\s\"'\\<>]+", re.IGNORECASE), rf"\1{HIDDEN}"),
)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without the secrets in it.

    Args:
        text: what is to be shown.
        secrets: values that are secrets whatever they look like.
    """
    # The longest first: one may be a part of another.
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN)
    for look, shown in _LOOKS:
        text = look.sub(shown, text)
    return text
