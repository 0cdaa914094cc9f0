"""Buckets, tried out: a look, and a small object that is written, read and deleted."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from consumer.decode import OUTPUT_MARK
from consumer.doctor.checks import Findings, check
from consumer.doctor.findings import error, ok, seconds
from consumer.doctor.site import PROBES, Site
from consumer.storage import ObjectStore, PreconditionFailed
from pipeline_steps.errors import StepError

_CONTENT = b"written by `mlworker doctor`; it may be deleted\n"
_CLEAN_UP_TIMEOUT = 4.0


@check(
    "bucket.readable",
    fix="look at BUCKET, ALLOWED_BUCKETS and STORAGE_EMULATOR_HOST, and grant roles/storage.objectViewer",
)
async def readable(site: Site) -> Findings:
    """BUCKET and ALLOWED_BUCKETS answer, and say of a missing object that it is missing.

    Every photo is read from one of them, and the worker's records from BUCKET.
    """
    for bucket in sorted({site.settings.bucket, *site.settings.input_buckets}):
        try:
            await site.look_into(bucket)
        except StepError as failed:
            yield error(f"gs://{bucket}", str(failed), "a bucket that can be read")
        else:
            yield ok(f"gs://{bucket}", "can be read")


@check(
    "bucket.writable",
    fix="gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=MEMBER "
    "--role=roles/storage.objectUser",
)
async def writable(site: Site) -> Findings:
    """BUCKET takes an object, gives it back, and lets it be deleted.

    It holds the records without which work is done twice, and the pictures. The object tried with is called
    `dead-letters/doctor-…`: no tenant has that folder, and a notification of it starts nothing.
    """
    bucket = site.settings.bucket
    store = await site.readable(bucket)
    name = f"{PROBES}{uuid4()}"
    is_written = False
    try:
        info = await store.write(
            bucket, name, _CONTENT, metadata={OUTPUT_MARK: f"{bucket}/{name}"}, if_generation_match=0
        )
        is_written = True
        read = await store.read(bucket, name)
        if (read.data, read.info.generation) != (_CONTENT, info.generation):
            yield error(f"gs://{bucket}", f"{name} reads other than it was written", "what was written")
        else:
            yield ok(f"gs://{bucket}", "an object was written and read")
    except (StepError, PreconditionFailed) as failed:
        found = "what was written cannot be read" if is_written else "cannot be written"
        yield error(f"gs://{bucket}", f"{found}: {failed}", "an object is written and read")
    finally:
        # Also what was not confirmed: it may have been written all the same.
        trouble = await _deleted(store, bucket, name)
    if is_written and trouble:
        yield error(f"gs://{bucket}", f"{name} cannot be deleted: {trouble}", "it is deleted")
    elif is_written:
        yield ok(f"gs://{bucket}", "it was deleted")


async def _deleted(store: ObjectStore, bucket: str, name: str) -> str:
    """Delete the object, and return why that cannot be done; also when the check's own time is over."""
    try:
        async with asyncio.timeout(_CLEAN_UP_TIMEOUT):
            await store.delete(bucket, name)
    except (StepError, TimeoutError) as failed:
        return str(failed) or "no answer"
    return ""


@check("bucket.retention", fix="gcloud storage buckets update gs://{bucket} --clear-retention-period")
async def retention(site: Site) -> Findings:
    """BUCKET lets objects be replaced and deleted at any time.

    Claims are renewed and attempts counted by replacing objects; a retention policy or a hold on new objects
    refuses that, and every message would be held.
    """
    name = site.settings.bucket
    found = await site.storage_api.bucket(name)
    period = found.retention_policy.retention_period
    if period:
        yield error(f"gs://{name}", f"objects are locked for {seconds(period)}", "no retention policy")
    if found.default_event_based_hold:
        yield error(
            f"gs://{name}",
            "new objects are held until somebody releases them",
            "no default hold",
            f"gcloud storage buckets update gs://{name} --no-default-event-based-hold",
        )
    elif not period:
        yield ok(f"gs://{name}", "no retention policy, and no hold")
