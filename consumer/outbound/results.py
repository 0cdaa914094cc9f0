"""The results topic: one message per result, or a claim check when the result is too large for one."""

from __future__ import annotations

from dataclasses import dataclass

from consumer.broker import Publisher
from consumer.ops.tracing import trace_parent
from contracts.result import ClaimCheck, ProcessingResult

OVERHEAD = 4096
"""Bytes kept free for attributes and framing."""


@dataclass(frozen=True, slots=True)
class ResultsPublisher:
    """Publishes results and waits for the broker's id."""

    publisher: Publisher
    topic: str
    claim_check_bytes: int

    def needs_claim_check(self, result: ProcessingResult) -> bool:
        """Tell whether the result must be published by reference."""
        return len(result.as_json) + OVERHEAD > self.claim_check_bytes

    async def publish(self, result: ProcessingResult, result_url: str | None) -> str:
        """Publish the result, by reference if `result_url` is given, and return the message's id.

        Raises:
            BrokerError: it was not confirmed.
        """
        body = result.as_json
        if result_url is not None:
            check = ClaimCheck(
                result_id=result.result_id,
                tenant_id=result.tenant_id,
                session_id=result.session_id,
                image_id=result.image_id,
                status=result.status,
                result_url=result_url,
                size_bytes=len(body),
            )
            body = check.model_dump_json().encode()
        attributes = {
            "tenant_id": result.tenant_id,
            "session_id": str(result.session_id),
            "image_id": str(result.image_id),
            "status": result.status,
            "result_id": result.result_id,
        }
        if parent := trace_parent():
            attributes["traceparent"] = parent
        return await self.publisher.publish(self.topic, body, attributes)
