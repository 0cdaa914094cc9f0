"""Set-ups to examine: a good one on this machine, and what is said of it when something is changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.pubsub_v1 import types

from consumer.doctor.examination import CATALOGUE, run
from consumer.doctor.findings import Finding, Severity
from consumer.doctor.site import Site
from consumer.local.given_settings import given_settings
from consumer.local.pubsub import EmbeddedPubSub
from consumer.settings import Settings
from consumer.storage.filesystem import FilesystemStore

PROJECT = "nursery"
BUCKET = "photos"
REQUESTS, RESULTS, DEAD_LETTERS = (
    f"projects/{PROJECT}/topics/{name}" for name in ("requests", "results", "dead")
)
WORK, RESULTS_READ, DEAD_READ = (
    f"projects/{PROJECT}/subscriptions/{name}" for name in ("work", "results", "dead-letters")
)
PUBLIC = httpx.create_ssl_context(trust_env=False)
"""As the site would make it for each question anew."""
NEVER = types.ExpirationPolicy()
GOOD_WORK: Mapping[str, Any] = {
    "ack_deadline_seconds": 60,
    "retry_policy": types.RetryPolicy(
        minimum_backoff=timedelta(seconds=10), maximum_backoff=timedelta(seconds=600)
    ),
    "dead_letter_policy": types.DeadLetterPolicy(dead_letter_topic=DEAD_LETTERS, max_delivery_attempts=100),
    "message_retention_duration": timedelta(days=7),
    "expiration_policy": NEVER,
}
GOOD_DEAD_READ: Mapping[str, Any] = {
    "ack_deadline_seconds": 600,
    "message_retention_duration": timedelta(days=31),
    "expiration_policy": NEVER,
}

Ask = Callable[..., Awaitable[list[Finding]]]
"""Runs one check of the good site, with settings changed, and returns what it found."""


class PubSubWithPermissions(EmbeddedPubSub):
    """The embedded server, with what it does not have: permissions and grants."""

    def __init__(self) -> None:
        super().__init__()
        self.permitted: dict[str, set[str]] | None = None
        """By resource; None: it knows no such question."""
        self.grants: dict[str, dict[str, list[str]]] = {}
        """Members by resource and role."""
        handlers = self._services.handlers
        self._services.handlers = lambda: [*handlers(), self._iam()]  # type: ignore[method-assign]

    def _iam(self) -> Any:
        return grpc.method_handlers_generic_handler(
            "google.iam.v1.IAMPolicy",
            {
                "TestIamPermissions": grpc.unary_unary_rpc_method_handler(
                    self._test,
                    iam_policy_pb2.TestIamPermissionsRequest.FromString,
                    iam_policy_pb2.TestIamPermissionsResponse.SerializeToString,
                ),
                "GetIamPolicy": grpc.unary_unary_rpc_method_handler(
                    self._policy,
                    iam_policy_pb2.GetIamPolicyRequest.FromString,
                    policy_pb2.Policy.SerializeToString,
                ),
            },
        )

    async def _test(self, request: Any, context: Any) -> Any:
        if self.permitted is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        allowed = self.permitted.get(request.resource, set())
        return iam_policy_pb2.TestIamPermissionsResponse(
            permissions=[name for name in request.permissions if name in allowed]
        )

    async def _policy(self, request: Any, context: Any) -> Any:
        if request.resource not in self.grants:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "you lack getIamPolicy")
        return policy_pb2.Policy(
            bindings=[
                policy_pb2.Binding(role=role, members=members)
                for role, members in self.grants[request.resource].items()
            ]
        )


def good_pubsub(server: EmbeddedPubSub) -> None:
    """Make the topics and subscriptions of a good site."""
    for topic in (REQUESTS, RESULTS, DEAD_LETTERS):
        server.create_topic(topic)
    server.create_subscription(WORK, REQUESTS, **GOOD_WORK)
    server.create_subscription(RESULTS_READ, RESULTS)
    server.create_subscription(DEAD_READ, DEAD_LETTERS, **GOOD_DEAD_READ)


def again(server: EmbeddedPubSub, name: str, topic: str, **fields: Any) -> None:
    """Replace a subscription by one that is described otherwise."""
    server.run(lambda broker: broker.delete_subscription(name))
    del server._services._subscriptions[name]
    server.create_subscription(name, topic, **fields)


def describe(server: EmbeddedPubSub, name: str, **fields: Any) -> None:
    """Say of a subscription what the embedded server could not do: push, filter, be detached."""
    described = server._services._subscriptions[name]
    described.MergeFrom(types.Subscription.pb(types.Subscription(**fields)))


@dataclass
class Good:
    """A good site; `settings` may be changed."""

    server: PubSubWithPermissions
    folder: Path
    store: FilesystemStore
    settings: dict[str, Any]

    def given(self, **changes: Any) -> Settings:
        return given_settings({**self.settings, **changes})

    async def ask(self, check: str, **changes: Any) -> list[Finding]:
        """Run one check with settings changed; `store`, `tls` and so on are the site's own."""
        own = {name: changes.pop(name) for name in ("store", "tls", "device_folder") if name in changes}
        own = {"store": self.store, "tls": PUBLIC, **own}
        online = changes.pop("online", True)
        [asked] = [known for known in CATALOGUE if known.id == check]
        async with Site(self.given(**changes), online=online, **own) as site:
            return await run(asked, site)


def worst(findings: list[Finding]) -> Severity:
    """The severity of the worst of them."""
    order = list(Severity)
    return min((finding.severity for finding in findings), key=order.index)


def said(findings: list[Finding]) -> str:
    """All of it, in a text to look for words in."""
    return "\n".join(f"{f.severity} {f.subject}: {f.found}; {f.expected}; {f.fix}" for f in findings)
