"""Why something failed, in the classes that decide what happens next."""

from __future__ import annotations

from enum import StrEnum


class FailureClass(StrEnum):
    """What a failure means for its message; the policy per class stands in `consumer/outcomes.py`."""

    PERMANENT = "permanent"
    """Trying again cannot help: give up at once."""
    TRANSIENT = "transient"
    """A peer or the device had a bad moment: try again, and count the attempts."""
    NOT_FOUND = "not_found"
    """The backend does not know the session yet: it may publish before it commits."""
    CONFIGURATION = "configuration"
    """We or the operator are wrong, not the message: hold, alert, dead-letter nothing."""
    SUPERSEDED = "superseded"
    """The photo was replaced or deleted before it was read: nothing to do any more."""
    INTERNAL = "internal"
    """An error nobody foresaw, or a pipeline that ran out of time: two attempts."""
