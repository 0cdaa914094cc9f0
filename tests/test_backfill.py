"""`mlworker backfill`: every photo once, from where it was cut short, and the same work every time."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import UUID

import grpc
import pytest

from consumer.backfill.checkpoint import Checkpoint, InvalidCheckpoint, Progress, read_checkpoint
from consumer.backfill.photos import Photo, Request, Rules, Skipped, identity_of
from consumer.backfill.publishing import Backfill, Tally
from consumer.broker import BrokerUnavailable, Delivery
from consumer.decode import Decoder
from consumer.interrupt import Stop
from consumer.jobs import Job
from consumer.local.pubsub import EmbeddedPubSub
from consumer.presets import load_presets
from consumer.routes import Routes, parse_routes
from consumer.sending import Pace
from consumer.storage import ObjectInfo
from consumer.storage.filesystem import FilesystemStore
from consumer.storage.gcs import GcsStore
from contracts.notification import StorageNotification
from tests.command import COMMAND, bare_environment
from tests.dead_letters.postbox import taken
from tests.invoke import invoke
from tests.peers import make_gcs_bucket

TOPIC, WORK = "projects/nursery/topics/requests", "projects/nursery/subscriptions/work"
STEPS = {"steps": [{"type": "step", "name": "detection"}, {"type": "step", "name": "count"}]}
RULES, REQUEST = Rules(), Request(STEPS, {})
DECODER = Decoder(load_presets(), Routes(), 10_000_000)


def info(name: str, **changes: Any) -> ObjectInfo:
    return ObjectInfo(**{
        "bucket": "photos", "name": name, "generation": 1, "size": 1, "content_type": "image/jpeg", **changes,
    })  # fmt: skip


def decoded(delivery: Delivery) -> Job:
    job = DECODER.decode(delivery)
    assert isinstance(job, Job)
    return job


def job_of(body: bytes) -> Job:
    return decoded(Delivery("", "1", body, {}, datetime.now(UTC), None))


# ---------------------------------------------------------------------------- which objects


@pytest.mark.parametrize(
    ("what", "rules", "why"),
    [
        (info("acme/processed/1.jpg"), Rules(), Skipped.OWN_FOLDER),
        (info("acme/originals_thumbnails/1.jpg"), Rules(), Skipped.OWN_FOLDER),
        (info("acme/originals/"), Rules(), Skipped.OWN_FOLDER),
        (
            info("acme/originals/1.jpg", metadata={"mlworker-output": "photos/acme/originals/1.jpg"}),
            Rules(),
            Skipped.OWN_OUTPUT,
        ),
        (info("acme/1.jpg"), Rules(match=re.compile(r"acme/beds/.*")), Skipped.NO_MATCH),
        (info("acme/notes.txt", content_type="text/plain"), Rules(), Skipped.NO_PHOTO),
        (info("acme/1.jpg", size=0), Rules(), Skipped.EMPTY),
        (info("acme//1.jpg"), Rules(), Skipped.BAD_NAME),
        (info("acme/../1.jpg"), Rules(), Skipped.BAD_NAME),
        (info("models.old!/1.jpg"), Rules(), Skipped.NO_TENANT),
        (info("-/1.jpg"), Rules(), Skipped.NO_TENANT),
    ],
)
def test_what_is_no_photo_is_left_out_and_it_is_known_why(
    what: ObjectInfo, rules: Rules, why: Skipped
) -> None:
    assert rules.photo_of(what) == why


@pytest.mark.parametrize(
    "what",
    [
        info("acme/1.JPG", content_type="application/octet-stream"),
        info("acme/1", content_type="image/png"),
        info("acme/copied.jpg", metadata={"mlworker-output": "photos/acme/processed/1.jpg"}),
    ],
)
def test_what_is_a_photo_by_type_or_by_name_is_taken(what: ObjectInfo) -> None:
    photo = Rules().photo_of(what)

    assert isinstance(photo, Photo)
    assert photo.ids.tenant_id == "acme"


def test_a_tenant_and_a_session_that_are_named_are_everybodys() -> None:
    session = UUID("550e8400-e29b-41d4-a716-446655440000")
    photo = Rules("green", session).photo_of(info("beds/1.jpg"))

    assert isinstance(photo, Photo)
    assert (photo.ids.tenant_id, photo.ids.session_id) == ("green", session)


@pytest.mark.parametrize("metadata", [{}, {"session_id": str(uuid.UUID(int=5)), "image_id": "no uuid"}])
def test_a_photo_gets_the_ids_that_its_notification_would_have_given_it(metadata: Mapping[str, str]) -> None:
    content = {"routes": [{"bucket": "photos", "prefix": "{tenant_id}/", "pipeline": STEPS}]}
    decoder = Decoder(load_presets(), parse_routes(content, "routes.yaml"), 10_000_000)
    what = info("acme/originals/1.jpg", generation=17, metadata=metadata)
    notification = StorageNotification(
        event_type="OBJECT_FINALIZE", bucket="photos", name="acme/originals/1.jpg", generation=17
    )
    job = decoder.job_of(notification, metadata, Delivery("", "1", b"", {}, datetime.now(UTC), None))
    photo = Rules().photo_of(what)

    assert isinstance(job, Job)
    assert isinstance(photo, Photo)
    assert photo.ids == job.ids


def test_the_same_photo_is_the_same_work_every_time_until_it_is_replaced() -> None:
    def work(generation: int) -> str:
        photo = Rules().photo_of(info("acme/1.jpg", generation=generation))
        assert isinstance(photo, Photo)
        return job_of(REQUEST.body(photo)).result_id

    assert work(1) == work(1) != work(2)


def test_a_backfill_is_another_one_with_any_other_word() -> None:
    def identity(
        prefix: str = "acme/",
        rules: Rules = RULES,
        request: Request = REQUEST,
        *,
        force: bool = False,
    ) -> str:
        return identity_of("photos", prefix, rules, request, TOPIC, force=force)

    others = [
        identity("acme/beds/"),
        identity(rules=Rules("acme")),
        identity(rules=Rules(match=re.compile("x"))),
        identity(request=Request({"steps": []}, {})),
        identity(request=Request(STEPS, {"a": 1})),
        identity(force=True),
    ]
    assert identity() == identity()
    assert len({identity(), *others}) == 7


# ---------------------------------------------------------------------------- how far it got


def progress(file: Path | None, window: int = 1000) -> Progress:
    return Progress(file, Checkpoint(identity="i", what="w"), window)


def test_the_mark_moves_only_over_what_is_confirmed() -> None:
    mark = progress(None)
    for name in "abcd":
        mark.begin(name)
    mark.passed("e")

    seen = []
    for name in "bdac":
        mark.confirmed(name)
        seen.append(mark.after)
    assert seen == ["", "", "b", "e"]
    assert mark.published == 4


def test_the_mark_never_passes_what_is_not_confirmed_whatever_the_order() -> None:
    dice = random.Random(7)
    for _ in range(200):
        mark, names = progress(None), [f"{i:02}" for i in range(12)]
        open_names: list[str] = []
        for name in names:
            if dice.random() < 0.3:
                mark.passed(name)
            else:
                mark.begin(name)
                open_names.append(name)
            while open_names and dice.random() < 0.4:
                mark.confirmed(open_names.pop(dice.randrange(len(open_names))))
            assert all(mark.after < name for name in open_names)
        while open_names:
            mark.confirmed(open_names.pop())
        assert mark.after == names[-1]


def test_a_checkpoint_survives_and_is_another_backfills_business_no_more(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.json"
    mark = progress(file)
    mark.begin("a")
    mark.confirmed("a")
    mark.save()

    assert read_checkpoint(file, "i", "w") == Checkpoint(identity="i", what="w", after="a", published=1)
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(InvalidCheckpoint, match=r"of another backfill \(w\)"):
        read_checkpoint(file, "another", "w")
    file.write_text("{")
    with pytest.raises(InvalidCheckpoint, match="remove it to begin anew"):
        read_checkpoint(file, "i", "w")
    mark.finish()
    assert read_checkpoint(file, "i", "w") == Checkpoint(identity="i", what="w")


# ---------------------------------------------------------------------------- publishing, without a network


@dataclass
class Collector:
    """A publisher that keeps what it is given, and fails when told to."""

    bodies: list[bytes]
    fail_at: int | None = None
    under_way: int = 0
    most: int = 0

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(random.random() / 200)
            if self.fail_at is not None and len(self.bodies) >= self.fail_at:
                raise BrokerUnavailable("away")
            self.bodies.append(data)
            return str(len(self.bodies))
        finally:
            self.under_way -= 1

    async def close(self) -> None: ...


def run(
    folder: Path, collector: Collector, mark: Progress, limit: int | None = None, **changes: Any
) -> Tally:
    async def whole() -> Tally:
        store, tally = FilesystemStore(folder), Tally()
        try:
            backfill = Backfill(
                store, collector, "photos", "acme/", TOPIC, Rules(), REQUEST, mark, Stop(), tally, **changes
            )
            await backfill.run(limit, Pace(None))
            return tally
        finally:
            await store.close()

    return asyncio.run(whole())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    originals = tmp_path / "store" / "photos" / "acme" / "originals"
    originals.mkdir(parents=True)
    for i in range(200):
        (originals / f"{i:03}.jpg").write_bytes(b"x")
    (tmp_path / "store" / "photos" / "acme" / "notes.txt").write_bytes(b"x")
    return tmp_path / "store"


def urls(bodies: list[bytes]) -> list[str]:
    return [json.loads(body)["image_url"] for body in bodies]


def test_every_photo_is_published_and_a_bounded_number_at_a_time(folder: Path, tmp_path: Path) -> None:
    collector = Collector([])
    tally = run(folder, collector, progress(tmp_path / "checkpoint"))

    assert Counter(urls(collector.bodies)) == {
        f"gs://photos/acme/originals/{i:03}.jpg": 1 for i in range(200)
    }
    assert (tally.published, tally.listed, tally.skipped) == (200, 201, {"no_photo": 1})
    assert tally.complete
    assert 1 < collector.most <= 64
    assert not (tmp_path / "checkpoint").exists()


def test_one_slow_photo_holds_up_no_more_than_a_window(tmp_path: Path) -> None:
    async def whole() -> None:
        mark = Progress(tmp_path / "checkpoint", Checkpoint(identity="i", what="w"), window=5)
        mark.begin("0")
        for name in "1234":
            await mark.room()
            mark.passed(name)
        waiting = asyncio.create_task(mark.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        mark.confirmed("0")
        await waiting
        assert mark.after == "4"

        mark.begin("5")
        for name in "6789":
            mark.passed(name)
        waiting = asyncio.create_task(mark.room())
        await asyncio.sleep(0.01)
        mark.failed()
        await waiting
        assert mark.after == "4"

    asyncio.run(whole())


def test_after_an_outage_it_goes_on_and_repeats_no_more_than_the_window(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    first = Collector([], fail_at=80)
    tally = run(folder, first, progress(file, window=100))
    assert (tally.complete, "away" in tally.trouble) == (False, True)

    second = Collector([])
    kept = read_checkpoint(file, "i", "w")
    assert run(folder, second, Progress(file, kept)).complete
    times = Counter(urls(first.bodies + second.bodies))
    assert len(times) == 200
    assert sum(times.values()) <= 200 + 100
    same = {job_of(body).result_id for body in first.bodies + second.bodies}
    assert len(same) == 200, "and what is repeated is the same work"


def test_a_limit_takes_the_next_so_many_each_time(folder: Path, tmp_path: Path) -> None:
    file, seen = tmp_path / "checkpoint", []
    for _ in range(3):
        collector = Collector([])
        tally = run(folder, collector, Progress(file, read_checkpoint(file, "i", "w")), limit=80)
        seen.append((len(collector.bodies), tally.complete))

    assert seen == [(80, False), (80, False), (40, True)]


# ---------------------------------------------------------------------------- the command


@dataclass(frozen=True)
class Site:
    broker: EmbeddedPubSub
    storage: str
    bucket: str
    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "GOOGLE_CLOUD_PROJECT": "nursery",
            "REQUESTS_TOPIC": "requests",
            "PUBSUB_EMULATOR_HOST": self.broker.address,
            "STORAGE_EMULATOR_HOST": self.storage,
        }

    def words(self, prefix: str, *options: str | Path) -> list[str | Path]:
        checkpoint = ["--checkpoint", self.folder / "checkpoint"]
        return [
            "backfill", f"gs://{self.bucket}/{prefix}", "--pipeline", self.folder / "count.json",
            *(checkpoint if "--checkpoint" not in options else []), *options,
        ]  # fmt: skip

    def backfill(self, prefix: str, *options: str | Path, **variables: str) -> CompletedProcess[str]:
        return invoke(*self.words(prefix, *options), **(self.variables | variables))

    def told(self, prefix: str, *options: str | Path, code: int = 0) -> dict[str, Any]:
        done = self.backfill(prefix, *options, "--json")
        assert done.returncode == code, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def put(self, *names: str, **metadata: str) -> None:
        async def write() -> None:
            store = GcsStore("test", self.storage)
            await asyncio.gather(
                *(
                    store.write(self.bucket, name, b"x", content_type="image/jpeg", metadata=metadata)
                    for name in names
                )
            )
            await store.close()

        asyncio.run(write())

    def delivered(self) -> list[Delivery]:
        return taken(self.broker, WORK)


@pytest.fixture
def site(fake_gcs: str, tmp_path: Path) -> Any:
    bucket = f"photos-{uuid.uuid4().hex}"
    make_gcs_bucket(fake_gcs, bucket)
    (tmp_path / "count.json").write_text(json.dumps(STEPS))
    with EmbeddedPubSub() as broker:
        broker.create_topic(TOPIC)
        broker.create_subscription(WORK, TOPIC, ack_deadline_seconds=60)
        yield Site(broker, fake_gcs, bucket, tmp_path)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_photos_of_a_bucket_become_requests(site: Site) -> None:
    site.put("acme/originals/1.jpg", "acme/processed/1.jpg", "green/originals/Ä 2.jpg", "other!/3.jpg")
    (site.folder / "settings.json").write_text('{"species": ["ficus"]}')
    told = site.told("", "--settings", site.folder / "settings.json", "--force")
    first, second = sorted(site.delivered(), key=lambda one: decoded(one).source.name)

    assert decoded(first).ids.tenant_id == "acme"
    assert decoded(second).source.url == f"gs://{site.bucket}/green/originals/Ä 2.jpg"
    assert decoded(second).settings == {"species": ["ficus"]}
    assert (decoded(first).warnings, first.attributes) == ((), {"mlworker-force": "1"})
    assert (told["listed"], told["published"], told["complete"]) == (4, 2, True)
    assert told["skipped"] == {"own_folder": 1, "no_tenant": 1}


def test_a_second_backfill_is_the_same_work(site: Site) -> None:
    site.put(*(f"acme/originals/{i}.jpg" for i in range(5)))
    site.told("acme/")
    first = {decoded(one).result_id for one in site.delivered()}
    site.told("acme/")

    assert {decoded(one).result_id for one in site.delivered()} == first
    assert len(first) == 5


def test_a_dry_run_counts_and_publishes_nothing(site: Site) -> None:
    site.put("acme/1.jpg", "acme/2.jpg", "acme/notes/")
    told, shown = site.told("acme/", "--dry-run"), site.backfill("acme/", "--dry-run", "--tenant", "green")

    assert (told["published"], told["skipped"], told["dry_run"]) == (2, {"own_folder": 1}, True)
    assert list(told) == [
        "listed", "published", "skipped", "outside_tenant_folder", "published_by_all_runs", "after",
        "complete", "sample", "trouble", "dry_run", "interrupted",
    ]  # fmt: skip
    assert list(told["sample"][0]) == ["image_url", "tenant_id", "session_id", "image_id"]
    assert [one["image_url"] for one in told["sample"]] == [
        f"gs://{site.bucket}/acme/{i}.jpg" for i in (1, 2)
    ]
    assert f"would publish 2 requests for 3 objects under gs://{site.bucket}/acme/" in shown.stdout
    assert "2 photos do not lie in their tenant's folder" in shown.stderr
    assert site.broker.backlog(WORK) == 0
    assert not (site.folder / "checkpoint").exists()


def test_ctrl_c_loses_none_and_the_same_command_does_the_rest(site: Site) -> None:
    names = [f"acme/originals/{i:03}.jpg" for i in range(120)]
    site.put(*names)
    line = [str(word) for word in [COMMAND, *site.words("acme/", "--rate", "40")]]
    with subprocess.Popen(
        line, env=bare_environment(**site.variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until(lambda: site.broker.backlog(WORK) >= 10)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    first = len(site.delivered())
    done = site.backfill("acme/")

    assert 10 <= first < 120
    assert f"going on: after acme/originals/{first - 1:03}.jpg: {first} published before" in done.stderr
    assert len(site.delivered()) == 120 - first
    assert not (site.folder / "checkpoint").exists()


def test_a_kill_repeats_no_more_than_the_last_second(site: Site) -> None:
    names = [f"acme/originals/{i:03}.jpg" for i in range(150)]
    site.put(*names)
    line = [str(word) for word in [COMMAND, *site.words("acme/", "--rate", "50")]]
    with subprocess.Popen(line, env=bare_environment(**site.variables)) as process:
        until(lambda: site.broker.backlog(WORK) >= 90)
        process.kill()
    first = site.delivered()
    site.told("acme/")
    times = Counter(decoded(one).source.name for one in first + site.delivered())

    assert sorted(times) == names
    assert sum(times.values()) - 150 <= 1.5 * 50


def test_a_broker_that_is_away_and_a_bucket_that_is_missing_are_told_apart(site: Site) -> None:
    site.put("acme/1.jpg")
    site.broker.fail("Publish", grpc.StatusCode.UNAVAILABLE)
    away = site.backfill("acme/", "--timeout", "0.5")
    site.broker.heal()
    missing = invoke(
        "backfill", "gs://no-such-bucket/", "--pipeline", site.folder / "count.json",
        "--checkpoint", site.folder / "none", **site.variables,
    )  # fmt: skip
    wrong = site.backfill("acme/", "--checkpoint", site.folder / "other", REQUESTS_TOPIC="reqests")

    assert (away.returncode, missing.returncode, wrong.returncode) == (1, 2, 2)
    assert f"stopped: gs://{site.bucket}/acme/1.jpg: publish to {TOPIC}: UNAVAILABLE" in away.stderr
    assert "no bucket 'no-such-bucket'" in missing.stderr
    assert "projects/nursery/topics/reqests" in wrong.stderr
    assert "Traceback" not in away.stderr + missing.stderr + wrong.stderr
    assert site.told("acme/")["published"] == 1
    assert not (site.folder / "none").exists()


def test_everything_that_is_wrong_is_told_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text('{"steps": [{"type": "step", "name": "detecton"}]}')
    (tmp_path / "settings.json").write_text("[]")
    missing = invoke("backfill", "gs://photos/", "--pipeline", tmp_path / "wrong.json")
    words = ["--pipeline", tmp_path / "wrong.json", "--project", "p", "--topic", "t"]
    wrong = invoke("backfill", "gs://photos/", *words)
    many = invoke(
        "backfill", "photos", *words, "--tenant", "models", "--session", "5", "--match", "(",
        "--settings", tmp_path / "settings.json",
    )  # fmt: skip

    assert (missing.returncode, wrong.returncode, many.returncode) == (2, 2, 2)
    assert "REQUESTS_TOPIC (or --topic): required" in missing.stderr
    assert wrong.stderr.startswith("pipeline_definition.steps.0.name: no step is named 'detecton'")
    assert [line.partition(":")[0] for line in many.stderr.splitlines()] == [
        "photos", "--session", "--match", "--tenant", "--settings",
    ]  # fmt: skip


def test_another_backfills_checkpoint_is_refused(site: Site) -> None:
    site.put("acme/1.jpg", "acme/2.jpg")
    assert site.backfill("acme/", "--limit", "1").returncode == 0
    done = site.backfill("acme/", "--tenant", "acme")

    assert done.returncode == 2
    assert "of this one with another pipeline or other options" in done.stderr
