"""Letters that are done with here: noted in the audit log, then acked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.broker import BrokerError, LeaseLost
from consumer.dead_letters.audit import Action, Audit, AuditFailed, Entry
from consumer.dead_letters.envelope import DeadLetter
from consumer.dead_letters.holding import Holding
from consumer.interrupt import Stop
from consumer.sending import Pace, start_each


@dataclass
class Settled:
    """What was done."""

    acked: list[str] = field(default_factory=list)
    unacked: list[str] = field(default_factory=list)
    """Noted, but their ack was not confirmed: they may come again."""
    trouble: str = ""
    """Why it ended early."""


async def settle(
    letters: Sequence[DeadLetter],
    action: Action,
    *,
    subscription: str,
    holding: Holding,
    audit: Audit,
    stop: Stop,
    details: Mapping[str, Any],
    on_done: Callable[[], None],
) -> Settled:
    """Note each letter and ack it; without the note it is not acked."""
    settled = Settled()

    async def each() -> AsyncIterator[DeadLetter]:
        for letter in letters:
            yield letter

    async def one(letter: DeadLetter) -> None:
        about = {"source_message_id": letter.source_message_id, "code": letter.code, **details}
        try:
            audit.note(Entry(action, letter.id, letter.delivery.publish_time, subscription, details=about))
            await holding.acknowledge(letter.id)
        except LeaseLost:
            settled.unacked.append(letter.id)
        except (AuditFailed, BrokerError) as error:
            settled.trouble = settled.trouble or str(error)
            stop.ask()
            if isinstance(error, BrokerError):
                settled.unacked.append(letter.id)
        else:
            settled.acked.append(letter.id)
            on_done()

    await start_each(each(), one, stop=stop, pace=Pace(None))
    return settled
