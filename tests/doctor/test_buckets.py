"""Buckets: tried out in a folder and on an emulator, and what is said of them by a server."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.broker import Delivery
from consumer.decode import OUTPUT_MARK, Decoder, Ignored, Notified
from consumer.doctor.findings import Severity
from consumer.presets import Presets
from consumer.routes import is_our_own, parse_routes
from consumer.storage import ObjectInfo, StoredObject
from consumer.storage.filesystem import FilesystemStore
from contracts.request import check_tenant_id
from pipeline_steps.errors import StoreMisconfigured, StoreUnavailable
from tests.doctor.sites import (
    BUCKET,
    DEAD_LETTERS,
    DEAD_READ,
    GOOD_WORK,
    REQUESTS,
    WORK,
    Good,
    again,
    said,
    worst,
)
from tests.doctor.storage_server import Storage
from tests.peers import make_gcs_bucket

pytestmark = pytest.mark.anyio

TODAY = datetime.now(UTC).date()


class Watched(FilesystemStore):
    """A folder that remembers what was written, and refuses what it is told to refuse."""

    def __init__(self, root: Path, **refuse: Exception) -> None:
        super().__init__(root)
        self.written: list[tuple[str, Mapping[str, str] | None]] = []
        self._refuse = refuse

    async def write(self, bucket: str, name: str, data: bytes, **options: Any) -> ObjectInfo:
        self.written.append((name, options.get("metadata")))
        self._raise("write")
        return await super().write(bucket, name, data, **options)

    async def read(self, bucket: str, name: str, **options: Any) -> StoredObject:
        self._raise("read")
        return await super().read(bucket, name, **options)

    async def delete(self, bucket: str, name: str, **options: Any) -> None:
        self._raise("delete")
        await super().delete(bucket, name, **options)

    def _raise(self, call: str) -> None:
        if call in self._refuse:
            raise self._refuse[call]


def objects(good: Good) -> list[Path]:
    return [path for path in (good.folder / "buckets" / BUCKET).rglob("*") if path.is_file()]


async def test_a_good_bucket_is_left_as_it_was(good: Good) -> None:
    assert worst(await good.ask("bucket.readable")) is Severity.OK
    assert worst(await good.ask("bucket.writable")) is Severity.OK
    assert objects(good) == []


async def test_the_object_that_is_tried_with_belongs_to_no_tenant_and_starts_nothing(good: Good) -> None:
    store = Watched(good.folder / "buckets")

    await good.ask("bucket.writable", store=store)

    [(name, metadata)] = store.written
    assert metadata == {OUTPUT_MARK: f"{BUCKET}/{name}"}
    assert is_our_own(name)
    with pytest.raises(ValueError, match="cannot be a tenant"):
        check_tenant_id(name.split("/")[0])
    everything = {"routes": [{"bucket": BUCKET, "prefix": "{tenant_id}/", "pipeline": {"steps": []}}]}
    decoder = Decoder(Presets({}), parse_routes(everything, "here"), 10_000)
    attributes = {
        "eventType": "OBJECT_FINALIZE",
        "bucketId": BUCKET,
        "objectId": name,
        "objectGeneration": "1",
        "payloadFormat": "NONE",
    }
    decoded = decoder.decode(Delivery("", "1", b"", attributes, datetime.now(UTC), None))
    photo = decoder.decode(Delivery("", "1", b"", {**attributes, "objectId": "t/x"}, datetime.now(UTC), None))
    assert decoded == Ignored("own_folder")
    assert isinstance(photo, Notified)


async def test_a_bucket_that_does_not_exist_is_said_once(good: Good) -> None:
    [finding] = await good.ask("bucket.readable", bucket="nowhere", allowed_buckets=("nowhere",))

    assert finding.severity is Severity.ERROR
    assert "there is no bucket 'nowhere'" in finding.found
    assert said(await good.ask("bucket.writable", bucket="nowhere")).startswith(
        "skipped gs://nowhere: see bucket"
    )


async def test_every_bucket_of_inputs_is_looked_at(good: Good) -> None:
    found = {f.subject: f.severity for f in await good.ask("bucket.readable", allowed_buckets=("inputs",))}

    assert found == {f"gs://{BUCKET}": Severity.OK, "gs://inputs": Severity.ERROR}


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        ({"write": StoreMisconfigured("403 no create")}, "cannot be written: 403 no create"),
        ({"read": StoreMisconfigured("403 no get")}, "cannot be read: 403 no get"),
        ({"delete": StoreMisconfigured("403 no delete")}, "cannot be deleted: 403 no delete"),
        ({"write": StoreUnavailable("a bad moment")}, "cannot be written: a bad moment"),
    ],
)
async def test_what_the_bucket_refuses_is_found(
    good: Good, refused: dict[str, Exception], words: str
) -> None:
    findings = await good.ask("bucket.writable", store=Watched(good.folder / "buckets", **refused))

    assert worst(findings) is Severity.ERROR
    assert words in said(findings)
    assert len(objects(good)) == ("delete" in refused)


async def test_what_was_written_without_being_confirmed_is_not_left_behind(good: Good) -> None:
    class Unconfirmed(FilesystemStore):
        async def write(self, *args: Any, **options: Any) -> ObjectInfo:
            await super().write(*args, **options)
            raise StoreUnavailable("no answer")

    findings = await good.ask("bucket.writable", store=Unconfirmed(good.folder / "buckets"))

    assert [finding.severity for finding in findings] == [Severity.ERROR]
    assert objects(good) == []


async def test_on_an_emulator_of_cloud_storage_it_is_the_same(good: Good, fake_gcs: str) -> None:
    make_gcs_bucket(fake_gcs, "doctors-bucket")
    emulated = {"storage_emulator_host": fake_gcs, "bucket": "doctors-bucket", "store": None}

    for check in ("bucket.readable", "bucket.writable", "bucket.lifecycle", "bucket.retention"):
        assert worst(await good.ask(check, **emulated)) is Severity.OK
    assert worst(await good.ask("bucket.readable", **{**emulated, "bucket": "nowhere"})) is Severity.ERROR
    assert worst(await good.ask("bucket.lifecycle", **{**emulated, "bucket": "nowhere"})) is Severity.SKIPPED
    assert worst(await good.ask("permissions.buckets", **emulated)) is Severity.SKIPPED


async def test_a_store_that_is_away_is_said_once(good: Good) -> None:
    away = {"storage_emulator_host": "http://127.0.0.1:1", "store": None}

    assert worst(await good.ask("bucket.readable", **away)) is Severity.ERROR
    for check in ("bucket.writable", "bucket.lifecycle", "bucket.retention", "permissions.buckets"):
        assert {finding.found for finding in await good.ask(check, **away)} == {"see bucket.readable"}


# ---------------------------------------------------------------------------- lifecycle and retention


def delete_if(**condition: Any) -> dict[str, Any]:
    return {"action": {"type": "Delete"}, "condition": condition}


def day(days_ago: int) -> str:
    return (TODAY - timedelta(days=days_ago)).isoformat()


@pytest.mark.parametrize(
    "rule",
    [
        delete_if(age=6),
        delete_if(age=0),
        delete_if(matchesPrefix=["acme/"]),
        delete_if(age=1, matchesPrefix=["acm"]),
        delete_if(age=1, matchesPrefix=["acme/processed/", "acme/results/"]),
        delete_if(age=1, matchesPrefix=["acme/res"]),
        delete_if(age=1, matchesPrefix=["acme/results/550e8400"]),
        delete_if(age=3, matchesSuffix=[".json"]),
        delete_if(age=3, matchesSuffix=[".jpg", "claim"]),
        delete_if(age=3, matchesStorageClass=["STANDARD"]),
        delete_if(age=3, isLive=True),
        delete_if(createdBefore=day(2)),
        delete_if(createdBefore=day(-20)),
    ],
    ids=str,
)
async def test_a_rule_that_deletes_records_too_early_is_an_error(
    good: Good, storage: Storage, rule: dict[str, Any]
) -> None:
    storage.buckets[BUCKET] = {"storageClass": "STANDARD", "lifecycle": {"rule": [delete_if(age=400), rule]}}

    findings = await good.ask("bucket.lifecycle")

    assert worst(findings) is Severity.ERROR
    assert "lifecycle rule 1 deletes the worker's records" in said(findings)
    assert "not before 7 d" in said(findings)


@pytest.mark.parametrize(
    "rule",
    [
        delete_if(age=31),
        delete_if(createdBefore=day(31)),
        delete_if(age=3, createdBefore=day(40)),
        delete_if(age=1, matchesPrefix=["acme/processed/"]),
        delete_if(age=1, matchesPrefix=["models/", "_tmp"]),
        delete_if(age=1, matchesSuffix=[".jpg"]),
        delete_if(age=1, matchesStorageClass=["ARCHIVE"]),
        delete_if(age=1, isLive=False),
        delete_if(numNewerVersions=1),
        delete_if(daysSinceNoncurrentTime=1),
        delete_if(daysSinceCustomTime=1),
        {"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": {"age": 1}},
        {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}},
    ],
    ids=str,
)
async def test_a_rule_that_spares_records_is_none(good: Good, storage: Storage, rule: dict[str, Any]) -> None:
    storage.buckets[BUCKET] = {"storageClass": "STANDARD", "lifecycle": {"rule": [rule]}}

    assert worst(await good.ask("bucket.lifecycle")) is Severity.OK


async def test_the_longer_the_subscription_keeps_messages_the_longer_records_must_stay(
    good: Good, storage: Storage
) -> None:
    storage.buckets[BUCKET] = {"lifecycle": {"rule": [delete_if(age=20, matchesSuffix=[".claim"])]}}
    assert worst(await good.ask("bucket.lifecycle")) is Severity.OK

    again(good.server, WORK, REQUESTS, **{**GOOD_WORK, "message_retention_duration": timedelta(days=21)})

    assert "not before 21 d" in said(await good.ask("bucket.lifecycle"))


async def test_when_it_is_unknown_how_long_messages_are_kept_it_is_a_warning(
    good: Good, storage: Storage
) -> None:
    storage.buckets[BUCKET] = {"lifecycle": {"rule": [delete_if(age=20, matchesSuffix=[".claim"])]}}

    findings = await good.ask("bucket.lifecycle", subscription="unknown")

    assert worst(findings) is Severity.WARNING
    assert "not before 31 d" in said(findings)


async def test_large_dead_letters_stay_as_long_as_dead_letters(good: Good, storage: Storage) -> None:
    storage.buckets[BUCKET] = {"lifecycle": {"rule": [delete_if(age=30, matchesPrefix=["dead-letters/"])]}}
    assert "rule 0 deletes large dead letters after 30 d" in said(await good.ask("bucket.lifecycle"))

    again(good.server, DEAD_READ, DEAD_LETTERS)  # they are kept for 7 d only

    assert worst(await good.ask("bucket.lifecycle")) is Severity.OK


@pytest.mark.parametrize(
    ("locked", "option"),
    [
        ({"retentionPolicy": {"retentionPeriod": "86400"}}, "--clear-retention-period"),
        ({"defaultEventBasedHold": True}, "--no-default-event-based-hold"),
    ],
)
async def test_objects_that_are_locked_are_an_error(
    good: Good, storage: Storage, locked: dict[str, Any], option: str
) -> None:
    assert worst(await good.ask("bucket.retention")) is Severity.OK
    storage.buckets[BUCKET] = locked

    [finding] = await good.ask("bucket.retention")

    assert finding.severity is Severity.ERROR
    assert finding.fix == f"gcloud storage buckets update gs://{BUCKET} {option}"


async def test_a_bucket_that_may_not_be_looked_at_is_skipped(good: Good, storage: Storage) -> None:
    storage.buckets[BUCKET] = 403

    for check in ("bucket.lifecycle", "bucket.retention"):
        findings = await good.ask(check)
        assert worst(findings) is Severity.SKIPPED
        assert "storage.buckets.get" in said(findings)


async def test_an_answer_that_cannot_be_read_is_an_error_of_that_check(good: Good, storage: Storage) -> None:
    storage.buckets[BUCKET] = {"lifecycle": {"rule": "everything"}}

    assert "cannot be read" in said(await good.ask("bucket.lifecycle"))
    storage.buckets[BUCKET] = 500
    assert "Cloud Storage answered 500" in said(await good.ask("bucket.lifecycle"))
