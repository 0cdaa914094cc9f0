"""The connection to Pub/Sub: Google's, or one on this machine that speaks its protocol.

`rpc.py` calls one method over it; `subscriber.py` and `publisher.py` are the ports' adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import google.auth
import grpc
from google.auth import exceptions as auth_errors
from google.auth.credentials import Credentials

from consumer.broker import BrokerMisconfigured

_HOST = "pubsub.googleapis.com"
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/pubsub")
_CHANNEL_OPTIONS = [
    # gRPC's own limit of 4 MB is below Pub/Sub's 10: a larger message would never be delivered.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # While a call is under way, and a pull nearly always is, a dead connection is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # By default gRPC waits up to two minutes before it tries a lost peer again, and meanwhile every call
    # fails at once: work would go on long after an outage is over.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A call that begins just as its connection is closed would be tried again by gRPC itself, and that try
    # may be lost: no answer until the call's deadline, for a pull 90 s. Our own tries are all there is.
    ("grpc.enable_retries", 0),
    # By default channels to one address share their connections: a new channel would be as dead as the
    # one it replaces.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", "mlworker"),
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where Pub/Sub is, and what opens it."""

    emulator: str | None = None
    """`host:port` of an emulator or the embedded server, reached in the clear and without credentials."""
    credentials: Credentials | None = None
    """For the real service; None finds the environment's own."""
    host: str = f"{_HOST}:443"

    def ready(self) -> Endpoint:
        """With its credentials found, which may read files and ask the metadata server.

        Raises:
            BrokerMisconfigured: there are none.
        """
        if self.emulator or self.credentials:
            return self
        try:
            credentials, _ = google.auth.default(scopes=_SCOPES)
        except auth_errors.DefaultCredentialsError as error:
            raise BrokerMisconfigured(f"no credentials for Pub/Sub: {error}") from error
        return replace(self, credentials=credentials)

    def connect(self) -> grpc.Channel:
        """A channel of its own; connecting happens with the first call."""
        if self.emulator:
            return grpc.insecure_channel(self.emulator, options=_CHANNEL_OPTIONS)
        from google.api_core import grpc_helpers  # large, and of no use with an emulator

        return grpc_helpers.create_channel(  # as Google's own clients do it
            self.host,
            credentials=self.credentials,
            default_scopes=_SCOPES,
            default_host=_HOST,
            options=_CHANNEL_OPTIONS,
        )


def full_name(name: str, kind: str, project: str) -> str:
    """The full name of a topic or subscription; a full one is left as it is.

    >>> full_name("results", "topics", "nursery")
    'projects/nursery/topics/results'
    """
    return name if name.startswith("projects/") else f"projects/{project}/{kind}/{name}"
