"""Putting a worker together: with local mode, the only place that names adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from consumer import failpoints
from consumer.brake import Brake
from consumer.broker import Delivery
from consumer.broker.leases import LeaseKeeper
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.bucket_claims import BucketClaims
from consumer.claims import Claims, NoClaims
from consumer.decode import Decoder
from consumer.delivering import Delivering
from consumer.failing import Failing
from consumer.fair_threads import FairThreads
from consumer.fetch import Fetcher
from consumer.giving_up import GivingUp
from consumer.handler import Handler
from consumer.handling import Fence
from consumer.ledger import BucketLedger, Ledger
from consumer.memory_budget import MemoryBudget
from consumer.models.opening import OpenModels, open_models
from consumer.models.pool import ModelPool
from consumer.models.threads import cpu_limit
from consumer.no_ledger import NoLedger
from consumer.ops.health import health_app, serving
from consumer.ops.loop_lag import LoopLag
from consumer.ops.memory_limit import photo_memory
from consumer.ops.probes import probes_of, watch_load, watch_readiness, watch_worker
from consumer.ops.stages import StageLog
from consumer.ops.tracing import Tracer
from consumer.outbound.backend import open_backend
from consumer.outbound.dead_letter import DeadLetters
from consumer.outbound.results import ResultsPublisher
from consumer.outcomes import Outcome, Settle
from consumer.patience import Patience
from consumer.presets import load_presets
from consumer.routes import check_routes, load_routes
from consumer.running import Runner
from consumer.settings import InvalidSettings, Settings
from consumer.sources import SourceRules
from consumer.storage import ObjectStore
from consumer.turns import Turns, tenant_of
from consumer.worker import Worker
from pipeline_steps.loading import load_steps
from pipeline_steps.registry import StepRegistry

log = structlog.get_logger()

SLOTS_PER_DEVICE = 4
"""Enough to fetch, decode and deliver beside the pictures that are on the device. One more is for a tenant
that has none."""


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker that is warmed up and serves its probes."""

    worker: Worker
    pool: ModelPool
    patience: Patience
    port: int


@asynccontextmanager
async def open_worker(
    settings: Settings,
    *,
    models: OpenModels | None = None,
    store: ObjectStore | None = None,
    steps: StepRegistry | None = None,
    is_local: bool = False,
    host: str = "0.0.0.0",  # noqa: S104 (the kubelet probes from outside the pod)
    on_outcome: Callable[[Delivery, Outcome, float], None] = lambda *_: None,
) -> AsyncIterator[RunningWorker]:
    """Build a worker, warm its models up, and serve its probes while the context lasts.

    Args:
        settings: what the environment says.
        models: those of the settings, where they are opened already.
        store: an object store other than Cloud Storage, where they are not.
        steps: other steps than ours and those of installed plug-ins.
        is_local: whether callbacks to this machine are allowed.
        host: the address probes listen on.
        on_outcome: told of every delivery's end.

    Raises:
        InvalidSettings, InvalidManifest, InvalidRoutes, InvalidPresets: an operator's input cannot be used.
        ModelUnavailable: a model does not load or does not survive its warm-up: there is no start without.
        StoreMisconfigured, BrokerMisconfigured: there are no credentials.
        StoreUnavailable, ObjectMissing: a manifest in a bucket cannot be read.
        OSError: the port is taken.
    """
    _arm(settings)
    steps = steps or load_steps()
    routes, presets = load_routes(settings.routes_file), load_presets(settings.presets_file)
    async with AsyncExitStack() as resources:
        backend = await resources.enter_async_context(open_backend(settings, is_local=is_local))
        if models is None:
            models = await resources.enter_async_context(open_models(settings, store))
        manifest, pool, store, metrics = models.manifest, models.pool, models.store, models.metrics
        check_routes(routes, steps, manifest.specs(), settings.input_buckets)
        slots = settings.slots or SLOTS_PER_DEVICE * len(models.devices) + 1

        with models.phases.time("subscription"):
            endpoint = await asyncio.to_thread(Endpoint(emulator=settings.pubsub_emulator_host).ready)
            subscriber = PubSubSubscriber(settings.subscription_path, endpoint)
            resources.push_async_callback(subscriber.close)
            publisher = PubSubPublisher(settings.google_cloud_project, endpoint)
            resources.push_async_callback(publisher.close)
        threads = resources.enter_context(FairThreads(slots + 2, "step"))
        # As many photos of one tenant as there are cores: more would only slow the others' down.
        decoders = resources.enter_context(FairThreads(max(3, cpu_limit() + 1), "decode"))

        budget = MemoryBudget(settings.decoded_memory or photo_memory())

        patience = Patience(
            settings.hold_timeout,
            not_found_timeout=settings.callback_not_found_wait,
            share=max(1, slots // 2),
        )
        ledger, claims = _ledger(settings, store)
        # Between two renewals a healthy lease covers three quarters of its length.
        fence = Fence(claims, patience, settings.bucket, settings.lease_seconds / 4)
        results = ResultsPublisher(publisher, settings.results_topic, settings.claim_check_bytes)
        giving_up = GivingUp(
            ledger=ledger,
            dead_letters=DeadLetters(publisher, settings.dead_letter_topic, store, settings.bucket),
            results=results,
            backend=backend,
            patience=patience,
            fence=fence,
            subscription=settings.subscription_path,
            bucket=settings.bucket,
        )
        rules = SourceRules(settings.input_buckets, settings.image_prefixes)
        handler = Handler(
            decoder=Decoder(presets, routes, settings.max_message_bytes),
            rules=rules,
            steps=steps,
            models=manifest.specs(),
            store=store,
            ledger=ledger,
            claims=claims,
            runner=Runner(
                fetcher=Fetcher(
                    store,
                    settings.max_image_bytes,
                    settings.max_image_pixels,
                    budget=budget,
                    threads=decoders,
                    on_decoded=metrics.photo_decoded,
                    large=asyncio.Semaphore(max(1, cpu_limit() - 1)),
                ),
                store=store,
                bucket=settings.bucket,
                pool=pool,
                patience=patience,
                threads=threads,
                pipeline_timeout=settings.pipeline_timeout,
                max_result_bytes=settings.max_result_bytes,
            ),
            delivering=Delivering(ledger, results, backend, patience, fence, settings.bucket),
            backend=backend,
            patience=patience,
            bucket=settings.bucket,
            max_attempts=settings.max_attempts,
            pipeline_timeout=settings.pipeline_timeout,
            fence=fence,
            failing=Failing(
                rules, ledger, claims, backend, giving_up, patience, settings.bucket, settings.max_attempts
            ),
            claim_patience=5.0 * settings.lease_seconds,
            on_warning=metrics.warned,
        )

        brake = Brake(settings.brake_dead_letters)

        def ended(delivery: Delivery, outcome: Outcome, seconds: float) -> None:
            is_done = outcome.settle is Settle.ACK
            metrics.delivery_ended(outcome.reason, seconds, outcome.dead_letter, is_done=is_done)
            brake.note(outcome.dead_letter)
            on_outcome(delivery, outcome, seconds)

        keeper = LeaseKeeper(subscriber.extend, settings.lease_seconds)
        worker = Worker(
            subscriber,
            keeper,
            handler,
            Turns(slots, settings.tenant_concurrency, partial(tenant_of, routes=routes), budget.held_by),
            settings.drain_timeout,
            settings.drain_mode,
            pauses=lambda: next(iter(patience.outages.values()), "") or brake.why,
            on_outcome=ended,
            tracer=_tracer(settings),
        )
        # Closed before what may hang: by then everything is over that is recorded.
        resources.push_async_callback(worker.tracer.close)
        loop_lag = LoopLag()
        watch_worker(metrics, worker, keeper, subscriber, patience, brake, loop_lag)
        watch_load(metrics, pool, worker.turns, budget)
        resources.callback(asyncio.create_task(loop_lag.watch()).cancel)

        probes = probes_of(worker, keeper, pool, patience, brake)
        watch_readiness(metrics, probes)
        app = health_app(probes, metrics.registry)
        port = await resources.enter_async_context(serving(app, host, settings.port))
        models.broken.add_done_callback(lambda broken: worker.fail(broken.result()))
        await models.warm
        log.info(
            "ready", slots=slots, devices=list(models.devices), models=sorted(manifest.models), port=port
        )
        yield RunningWorker(worker, pool, patience, port)


def _arm(settings: Settings) -> None:
    try:
        failpoints.arm(settings.failpoints or "")
    except ValueError as error:
        raise InvalidSettings(str(error)) from error


def _tracer(settings: Settings) -> Tracer:
    tracer = Tracer()
    if settings.otel_exporter_otlp_endpoint is not None:
        from consumer.ops.otlp import OtlpTracer  # slow to import

        tracer = OtlpTracer(settings)
    return StageLog(tracer) if settings.log_level == "DEBUG" else tracer


def _ledger(settings: Settings, store: ObjectStore) -> tuple[Ledger, Claims]:
    if settings.ledger == "off":
        return NoLedger(store, settings.bucket), NoClaims()
    bucket = settings.bucket
    return BucketLedger(store, bucket), BucketClaims(store, bucket, settings.lease_seconds / 2)
