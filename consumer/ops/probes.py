"""What the outside sees of a worker: its probes, and the numbers that are read when they are scraped."""

from __future__ import annotations

from consumer.brake import Brake
from consumer.broker.leases import LeaseKeeper
from consumer.broker.subscriber import PubSubSubscriber
from consumer.memory_budget import MemoryBudget
from consumer.models.pool import ModelPool
from consumer.ops.health import Probes
from consumer.ops.loop_lag import LoopLag
from consumer.ops.metrics import Metrics
from consumer.patience import Patience
from consumer.turns import Turns
from consumer.worker import Worker

_HUNG_DEVICE = 300.0
_STUCK_THREAD = 60.0
_STALE_KEEPER = 30.0


def probes_of(
    worker: Worker, keeper: LeaseKeeper, pool: ModelPool, patience: Patience, brake: Brake
) -> Probes:
    """Return what each probe looks at."""

    def if_not(condition: bool, why: str) -> str:
        return "" if condition else why

    return Probes(
        startup={"models": lambda: if_not(pool.ready, "warming up")},
        readiness={
            "models": lambda: if_not(pool.ready, "not warm"),
            "pulling": lambda: if_not(worker.is_pulling, worker.trouble or "not pulling"),
            "draining": lambda: if_not(not worker.is_draining, "draining"),
            "configuration": lambda: "; ".join(f"{k}: {v}" for k, v in patience.unready.items()),
            "brake": lambda: brake.why,
        },
        liveness={
            "devices": lambda: if_not(
                pool.busy_for() < _HUNG_DEVICE, f"a batch has been running for {pool.busy_for():.0f} s"
            ),
            "threads": lambda: if_not(
                worker.lingering_for() < _STUCK_THREAD, "a step's thread does not return"
            ),
            "leases": lambda: if_not(
                worker.busy == 0 or keeper.last_tick_age() < _STALE_KEEPER, "the lease keeper stands still"
            ),
        },
    )


def watch_worker(
    metrics: Metrics,
    worker: Worker,
    keeper: LeaseKeeper,
    subscriber: PubSubSubscriber,
    patience: Patience,
    brake: Brake,
    loop_lag: LoopLag,
) -> None:
    """Export the worker's state."""
    watch = metrics.watch
    watch("slots", "Slots there are.", lambda: worker.turns.slots)
    watch("slots_busy", "Slots taken.", lambda: worker.busy)
    watch("draining", "1 once it was asked to stop.", lambda: worker.is_draining)
    watch(
        "pulling_paused",
        "1 while an outage or the brake keeps it from pulling.",
        lambda: bool(worker.pauses()),
    )
    watch(
        "runs_to_protect",
        "Runs that would be lost if it were stopped now.",
        lambda: worker.runs_to_protect,
    )
    watch("leases_held", "Messages leased.", lambda: keeper.held)
    watch("lease_remaining_seconds", "Of the lease that ends first.", lambda: keeper.shortest() or 0)
    watch("lease_keeper_age_seconds", "Since the keeper's last turn.", keeper.last_tick_age)
    watch("lease_lag_seconds", "By how much the latest extension was late.", lambda: keeper.lag)
    watch("loop_lag_seconds", "By how much the event loop's latest turn was late.", lambda: loop_lag.seconds)
    watch("silent_pulls", "Pulls without an answer; the connection was renewed.", lambda: subscriber.silences)
    watch("circuits_open", "Destinations that nobody reaches.", lambda: patience.open_circuits)
    watch("peers_waited_for", "Destinations with callers that wait.", lambda: len(patience.waiting))
    watch("misconfigured", "Destinations an operator has to put right.", lambda: len(patience.misconfigured))
    watch("brake_engaged", "1 while too many messages are given up for one reason.", lambda: bool(brake.why))


def watch_readiness(metrics: Metrics, probes: Probes) -> None:
    """Export what the readiness probe says."""
    checks = probes.readiness
    metrics.watch("ready", "1 while it is ready.", lambda: not any(check() for check in checks.values()))


def watch_load(metrics: Metrics, pool: ModelPool, turns: Turns, budget: MemoryBudget) -> None:
    """Export what waits, and for what."""
    watch = metrics.watch
    watch("devices", "Devices that answer.", lambda: pool.devices)
    watch("device_batch_age_seconds", "For how long the oldest batch has been running.", pool.busy_for)
    watch("device_queue_items", "Items that wait for a device.", pool.waiting)
    metrics.watch_count(
        "embeddings_found",
        "Pictures whose embedding was kept from another message.",
        pool.embeddings_found,
    )
    watch("photo_bytes", "Files and decoded photos in memory.", lambda: budget.held)
    watch("photo_bytes_limit", "What DECODED_MEMORY allows.", lambda: budget.limit)
    watch("photos_waiting", "Photos that wait for memory to be decoded.", lambda: budget.waiting)
    watch("messages_in_hand", "Messages leased that wait for a slot.", lambda: turns.in_hand)
    metrics.watch_count(
        "messages_rested", "Messages handed back until their tenant's turn.", lambda: turns.rested
    )
