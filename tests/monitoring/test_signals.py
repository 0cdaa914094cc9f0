"""What a worker exports for its scaler and its alerts, in the moments they are for."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from consumer.ops.metrics import Metrics
from consumer.outcomes import Settle
from tests.end_to_end.conftest import play, toys

__all__ = ["play", "toys"]

LOOK = {"type": "step", "name": "look"}
HELD = {"type": "step", "name": "wait_for_the_gate"}
FAIL = {"type": "step", "name": "fail", "kwargs": {"how": "transient", "times": 1}}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[CollectorRegistry]:
    """The registries of workers that are opened."""
    made: list[CollectorRegistry] = []
    init = Metrics.__init__

    def note(self: Metrics, *given: str) -> None:
        init(self, *given)
        made.append(self.registry)

    monkeypatch.setattr(Metrics, "__init__", note)
    return made


def read(registry: list[CollectorRegistry], name: str, **labels: str) -> float | None:
    return registry[-1].get_sample_value(f"mlworker_{name}", labels)


def test_messages_that_come_again_are_not_done(play, toys, registry):
    async def story(site):
        await site.photo()
        async with site.worker():
            site.publish(site.request(LOOK))
            await site.until_settled(1)
            site.publish(site.request(FAIL))
            await site.until(lambda: len(site.settled) >= 2, "its first attempt")

            handed_back = sum(outcome.settle is Settle.HAND_BACK for _, outcome in site.settled)
            assert handed_back == 1
            assert read(registry, "messages_done_total") == len(site.settled) - handed_back

    play(story)


def test_what_alerts_ask_for_is_there_before_it_has_happened(play, registry):
    async def story(site):
        async with site.worker():
            for outcome in ("given_up", "lease_lost"):
                assert read(registry, "messages_total", outcome=outcome) == 0

    play(story)


def test_a_run_that_would_be_handed_back_is_to_be_protected_until_the_drain_begins(play, toys, registry):
    async def story(site):
        await site.photo()
        async with site.worker(drain_mode="abort") as running:
            site.publish(site.request(HELD))
            await site.until(lambda: toys.now == 1, "the run to begin")
            assert read(registry, "runs_to_protect") == 1
            assert read(registry, "draining") == 0

            running.worker.stop()
            assert read(registry, "runs_to_protect") == 0
            assert read(registry, "draining") == 1
            assert read(registry, "ready") == 0

    play(story)


def test_a_run_that_ends_within_the_drain_needs_no_protection(play, toys, registry):
    async def story(site):
        await site.photo()
        toys.gate.set()
        async with site.worker(drain_timeout=30.0):
            site.publish(site.request(HELD))
            await site.until_settled(1)  # now it is known how long such a run takes
            toys.gate.clear()
            site.publish(site.request(HELD))
            await site.until(lambda: toys.now == 1, "the run to begin")
            assert read(registry, "runs_to_protect") == 0
            assert read(registry, "slots_busy") == 1
            toys.gate.set()

    play(story)


def test_a_run_that_is_known_to_take_longer_than_a_drain_is_to_be_protected(play, registry):
    async def story(site):
        await site.photo()
        long = {"type": "step", "name": "wait", "kwargs": {"seconds": 1.0}}
        async with site.worker(drain_timeout=0.1):
            site.publish(site.request(long))
            await site.until_settled(1)
            assert read(registry, "runs_to_protect") == 0
            site.publish(site.request(long))
            await site.until(lambda: read(registry, "runs_to_protect") == 1, "the run to be protected")

    play(story)


def test_a_worker_with_the_brake_on_says_that_it_pulls_nothing_and_is_not_ready(play, toys, registry):
    async def story(site):
        await site.photo()
        bad = {"type": "step", "name": "fail"}
        async with site.worker(brake_dead_letters=2):
            await site.until(lambda: read(registry, "ready") == 1, "it to be ready")
            assert read(registry, "pulling_paused") == 0
            for _ in range(3):
                site.publish(site.request(bad))
            await site.until(lambda: read(registry, "brake_engaged") == 1, "the brake")
            assert read(registry, "pulling_paused") == 1
            assert read(registry, "ready") == 0

    play(story)
