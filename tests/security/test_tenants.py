"""No message reads or writes what is another tenant's, on any of the ways a message goes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from consumer.patience import Patience
from consumer.storage.filesystem import FilesystemStore
from consumer.storage.tenant import TenantFolder
from pipeline_steps.artifacts import Detections, Image
from pipeline_steps.context import Deadline, StepContext
from pipeline_steps.errors import NotAllowed
from pipeline_steps.registry import StepParams, StepRegistry, step
from tests.end_to_end.site import BUCKET, open_site

LOOK = {"type": "step", "name": "look"}


@contextmanager
def folder_of(tenant: str, root: Path) -> Iterator[TenantFolder]:
    store = FilesystemStore(root)
    yield TenantFolder(store, Patience(1.0), BUCKET, tenant, Deadline(math.inf))
    asyncio.run(store.close())


@pytest.mark.parametrize(
    "name",
    [
        "../other/x.jpg",
        "a/../../other/x.jpg",
        "..",
        ".",
        "",
        "/x.jpg",
        "a//x.jpg",
        "a/",
        "a/./x.jpg",
        "a\nb.jpg",
        "a\x00b.jpg",
        "results/x.json",
        "Results/x.json",
        "models/x",
        "dead-letters/x",
    ],
)
def test_a_step_writes_nowhere_but_in_the_tenants_own_folders(tmp_path: Path, name: str) -> None:
    with folder_of("acme", tmp_path) as folder:
        with pytest.raises(NotAllowed):
            folder.url(name)
        with pytest.raises(NotAllowed):
            asyncio.run(folder.write(name, b"x", content_type="text/plain"))

    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "name", ["..%2fother/x.jpg", "%2e%2e/other/x.jpg", "..\\other\\x.jpg", "\uff0e\uff0e/x.jpg"]
)
def test_what_only_looks_like_a_way_up_stays_in_the_tenants_folder(tmp_path: Path, name: str) -> None:
    with folder_of("acme", tmp_path) as folder:
        assert (
            asyncio.run(folder.write(name, b"x", content_type="text/plain")) == f"gs://{BUCKET}/acme/{name}"
        )

    [file] = [path for path in (tmp_path / BUCKET).rglob("*") if path.is_file()]
    assert file.resolve().is_relative_to(tmp_path / BUCKET / "acme")


@pytest.mark.parametrize(
    "tenant", ["", ".", "..", "a/b", "results", "Models", "dead-letters", "a\n", "-a", "a" * 65]
)
def test_no_folder_is_made_for_what_is_no_tenant(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(NotAllowed), folder_of(tenant, tmp_path):
        pass


class Escape(StepParams):
    name: str


@pytest.fixture
def steps() -> StepRegistry:
    registry = StepRegistry()

    @step("look", registry=registry)
    async def look(image: Image) -> Detections:
        """Find nothing."""
        return Detections.none()

    @step("write", registry=registry)
    async def write(image: Image, params: Escape, ctx: StepContext) -> Detections:
        """Write where the message says."""
        await ctx.store.write(params.name, b"x", content_type="text/plain")
        return Detections.none()

    return registry


def play(folder: Path, steps: StepRegistry, story) -> None:
    async def whole() -> None:
        async with open_site(folder, steps) as site:
            await story(site)

    asyncio.run(whole())


def test_a_step_that_tries_is_given_up_and_leaves_nothing(tmp_path: Path, steps: StepRegistry) -> None:
    async def story(site):
        await site.photo()
        names = ["../other/x", "results/x", "a//b"]
        async with site.worker():
            for name in names:
                site.publish(site.request({"type": "step", "name": "write", "kwargs": {"name": name}}))
            await site.until_settled(len(names))
        letters = await site.dead_letters()
        assert [letter.attributes["mlworker-error-code"] for letter in letters] == ["not_allowed"] * 3
        written = [info.name async for info in site.store.list(BUCKET, "")]
        assert all(name.startswith(("acme/originals/", "acme/results/")) for name in written), written

    play(tmp_path, steps, story)


@pytest.mark.parametrize(
    "change",
    [
        {"image_url": f"gs://{BUCKET}/acme2/originals/a.jpg"},
        {"image_url": f"gs://{BUCKET}/acm/originals/a.jpg"},
        {"image_url": f"gs://{BUCKET}/acme/../acme2/originals/a.jpg"},
        {"image_url": f"gs://{BUCKET}/acme//originals/a.jpg"},
        {"image_url": f"gs://{BUCKET}/%61cme/originals/a.jpg"},
        {"image_url": "gs://models-of-all/acme/originals/a.jpg"},
        {"tenant_id": "acme2"},
        {"tenant_id": "results"},
        {"tenant_id": "acme/.."},
        {"tenant_id": "Models", "image_url": f"gs://{BUCKET}/Models/models.yaml"},
    ],
)
def test_a_message_about_anothers_photo_is_given_up_before_any_of_it_is_read(
    tmp_path: Path, steps: StepRegistry, change: dict[str, str]
) -> None:
    async def story(site):
        # None of the photos is there: reading one would say so.
        async with site.worker():
            site.publish(site.request(LOOK, **change))
            await site.until_settled(1)
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-error-code"] in ("not_allowed", "malformed_message")
        assert site.backend.calls == []  # and nobody's session is told of it

    play(tmp_path, steps, story)


def test_a_notification_is_held_to_the_same_rules_before_the_object_is_looked_at(
    tmp_path: Path, steps: StepRegistry
) -> None:
    routes = tmp_path / "routes.yaml"
    route = {"bucket": BUCKET, "prefix": "{tenant_id}/originals", "pipeline": {"steps": [LOOK]}}
    routes.write_text(yaml.safe_dump({"routes": [{**route, "callback": False}]}))

    async def story(site):
        seen = [("not-allowed", "acme/originals/a.jpg"), (BUCKET, "acme/originals/../x.jpg")]
        async with site.worker(routes_file=routes):
            for bucket, name in seen:
                attributes = {"bucketId": bucket, "objectId": name, "objectGeneration": "1"}
                site.publish(b"", eventType="OBJECT_FINALIZE", payloadFormat="NONE", **attributes)
            await site.until_settled(2)
        # Of an object that is not there the end would have been another one: it was superseded. A route from
        # a bucket that is not allowed is refused when the worker starts (tests/test_routes.py).
        assert sorted(site.reasons()) == ["given_up", "ignored_no_route"]
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-error-code"] == "not_allowed"

    play(tmp_path, steps, story)
