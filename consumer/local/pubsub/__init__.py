"""A Pub/Sub server for local mode and tests: the real gRPC protocol, the state in memory.

Reading order: `messages.py`, `subscriptions.py` and `topics.py` are the broker, pure and driven by a clock;
`wire.py`, `services.py` and `streaming.py` speak Google's protocol; `server.py` puts it on a port.
"""

from consumer.local.pubsub.faults import Fault, Rpc
from consumer.local.pubsub.journal import Deed, Journal, Line
from consumer.local.pubsub.messages import AlreadyExists, Invalid, NotFound
from consumer.local.pubsub.server import EmbeddedPubSub

__all__ = [
    "AlreadyExists", "Deed", "EmbeddedPubSub", "Fault", "Invalid", "Journal", "Line", "NotFound", "Rpc",
]  # fmt: skip
