"""Running a job's pipeline: fetch the photo, execute, and put the result together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from pydantic import ValidationError

from consumer.errors import HoldExpired, InvalidResult, ResultTooLarge
from consumer.fair_threads import FairThreads
from consumer.fetch import Fetcher, Photo
from consumer.jobs import Job
from consumer.models_used import ModelsUsed
from consumer.ops.tracing import span
from consumer.patience import Patience
from consumer.pipeline.execute import execute
from consumer.pipeline.nodes import Pipeline
from consumer.pipeline.run import Run
from consumer.storage import ObjectStore
from consumer.storage.tenant import TenantFolder
from consumer.summary import (
    artifacts_of,
    classifications_of,
    detections_of,
    estimations_of,
    segments_of,
    warnings_of,
)
from contracts import __version__
from contracts.result import ImageInfo, ProcessingResult
from pipeline_steps.artifact import Artifacts
from pipeline_steps.artifacts import Image
from pipeline_steps.context import Deadline
from pipeline_steps.models import Decoding, Models
from pipeline_steps.pictures import ScaledPhoto


class Pool(Protocol):
    """Where warm models come from."""

    def holding(self, names: Collection[str], tenant_id: str) -> AbstractAsyncContextManager[None]:
        """Have these models loaded while the context lasts."""
        ...

    def for_job(self, job: Hashable, tenant_id: str) -> Models:
        """Return the models as one job of one tenant sees them."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that has begun: what there is to tell of it however it ends."""

    run: Run
    models: ModelsUsed
    started_at: datetime
    image: ImageInfo | None
    image_generation: int | None


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs pipelines, each with its own deadline, folder and report."""

    fetcher: Fetcher
    store: ObjectStore
    bucket: str
    pool: Pool
    patience: Patience
    threads: FairThreads
    pipeline_timeout: float
    max_result_bytes: int

    async def run(
        self,
        job: Job,
        pipeline: Pipeline,
        may_begin: Callable[[], Awaitable[bool]],
        begun: Callable[[Begun], None],
    ) -> ProcessingResult | None:
        """Return the result of running `pipeline` on the job's photo, or None if it may not begin.

        Args:
            job: whose photo, and where it is.
            pipeline: what to do, parsed.
            may_begin: asked once photo and models are there, which may have taken long.
            begun: told of the run, for threads that outlive it, and for what to say of it if it fails.

        Raises:
            StepFailed: a step failed and was not allowed to.
            StepError: the photo could not be fetched.
            ResultTooLarge: more was found than a result may hold.
            InvalidResult: what was found cannot be said in a result.
            ModelUnavailable: a model does not load, or they do not fit together.
            HoldExpired: a model does not load, and enough messages wait for it already.
        """
        if any(self.patience.is_taken(self._destination(job, names)) for names in _waited_for(pipeline)):
            raise HoldExpired("a model of this pipeline does not load, and enough messages wait for it")
        started_at = datetime.now(UTC)
        tenant = job.ids.tenant_id
        run: Run | None = None
        photo = await self._photo(job, pipeline)
        try:
            async with self.pool.holding(pipeline.models, tenant):
                if not await may_begin():
                    return None
                # Only from here on: what was waited for until now is not the pipeline's time.
                deadline = Deadline.after(self.pipeline_timeout)
                models = ModelsUsed(self.pool.for_job(job.result_id, tenant))
                folder = TenantFolder(self.store, self.patience, self.bucket, tenant, deadline)
                run = Run(job.info, models, folder, deadline, self.threads.of(tenant))
                generation = photo.generation if photo else job.source.generation
                begun(Begun(run, models, started_at, _info(photo), generation))
                try:
                    written = await execute(
                        pipeline.root, Artifacts.of(photo.image) if photo else Artifacts(), run
                    )
                finally:
                    folder.close()
        finally:
            if photo is not None:
                photo.credit.release_after(run.lingering if run else ())
        try:
            result = ProcessingResult(
                result_id=job.result_id,
                tenant_id=tenant,
                session_id=job.ids.session_id,
                image_id=job.ids.image_id,
                image_url=job.source.url,
                image_generation=generation,
                status="partial" if run.is_partial else "succeeded",
                image=_info(photo),
                segments=segments_of(written, photo.image.width, photo.image.height) if photo else (),
                detections=detections_of(written),
                classifications=classifications_of(written),
                estimations=estimations_of(written, succeeded=not run.is_partial),
                artifacts=artifacts_of(written),
                skipped=tuple(run.skipped),
                steps=tuple(run.steps),
                models=models.report(),
                warnings=warnings_of(written, (*job.warnings, *pipeline.warnings)),
                worker_version=__version__,
                started_at=started_at,
                finished_at=datetime.now(UTC),
            )
        except ValidationError as error:
            raise InvalidResult(_said(error)) from error
        self._check_size(result)
        return result

    async def until_models_load(self, job: Job, pipeline: Pipeline) -> None:
        """Wait for the pipeline's models, which an operator has to put right; others go on meanwhile.

        Raises:
            HoldExpired: one did not load for longer than `hold_timeout`, or they did not fit together, or
                enough messages wait already.
        """
        for names in _waited_for(pipeline):
            await self.patience.persist(
                self._destination(job, names),
                partial(self._load, names, job.ids.tenant_id),
                everybody=False,
                ours=True,
            )

    async def _load(self, names: Collection[str], tenant: str) -> None:
        async with self.pool.holding(names, tenant):
            return

    def _destination(self, job: Job, names: Collection[str]) -> str:
        # By the names of what this tenant gets: it may be another's that does not load.
        models = self.pool.for_job(job.result_id, job.ids.tenant_id)
        return f"model {', '.join(models.spec(name).name for name in names)}"

    def _check_size(self, result: ProcessingResult) -> None:
        size = len(result.as_json)
        if size > self.max_result_bytes:
            raise ResultTooLarge(
                f"a result of {size} bytes, more than MAX_RESULT_BYTES={self.max_result_bytes}: "
                f"{len(result.detections)} detections, {len(result.segments)} segments, "
                f"{len(result.classifications)} classifications; keep fewer with higher thresholds"
            )

    async def _photo(self, job: Job, pipeline: Pipeline) -> Photo | None:
        if not pipeline.reads(Image):
            return None
        with span("fetch"):
            return await self.patience.persist(
                f"bucket {job.source.bucket}",
                lambda: self.fetcher.fetch(
                    job, in_windows=pipeline.in_windows, longest=self._longest(job, pipeline)
                ),
            )

    def _longest(self, job: Job, pipeline: Pipeline) -> int | None:
        """Return how many pixels along a side models are shown of the photo; None if it is needed in full."""
        models = self.pool.for_job(job.result_id, job.ids.tenant_id)
        specs = [models.spec(name) for name in pipeline.models]
        if not specs or any(spec.decoding is Decoding.FULL for spec in specs) or not pipeline.only_shows:
            return None
        return max(spec.input_size for spec in specs)


def _waited_for(pipeline: Pipeline) -> Iterator[tuple[str, ...]]:
    """Yield each model by itself, and all of them: they may load, and not fit together."""
    names = tuple(sorted(pipeline.models))
    yield from ((name,) for name in names)
    if len(names) > 1:
        yield names


def _info(photo: Photo | None) -> ImageInfo | None:
    if photo is None:
        return None
    return ImageInfo(
        width=photo.image.width,
        height=photo.image.height,
        orientation_applied=photo.orientation_applied,
        scaled=isinstance(photo.image.source, ScaledPhoto),
    )


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, (error.title, *first["loc"])))
    return (
        f"{where} is {first['input']!r}: {first['msg'].lower()}; a step, or a model it asked, found it: "
        "look at the model's weights and precision"
    )
