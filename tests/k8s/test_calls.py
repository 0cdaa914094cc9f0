"""What a worker asks of Google while it works, its account may; and nothing is granted that it never uses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests

from consumer.broker import publisher, subscriber
from consumer.storage.gcs import GcsStore
from consumer.storage.gcs_requests import ObjectRequests
from pipeline_steps.loading import load_steps
from tests.end_to_end.site import BUCKET, WORK, open_site
from tests.k8s.doctor import ROLES
from tests.k8s.manifests import of_overlay
from tests.peers import fake_gcs_server, make_gcs_bucket

LEDGER = "ledger"
UPLOAD = {"type": "step", "name": "upload_image"}
METHODS = {
    "Pull": "pubsub.subscriptions.consume",
    "Acknowledge": "pubsub.subscriptions.consume",
    "ModifyAckDeadline": "pubsub.subscriptions.consume",
    "Publish": "pubsub.topics.publish",
}
OBJECTS = re.compile(
    r"/(?:storage|upload/storage|download/storage)/v1/b/(?P<bucket>[^/]+)(?P<objects>/o)?(?P<name>/.+)?"
)
OF_OBJECTS = {
    ("GET", True): "storage.objects.get",
    ("GET", False): "storage.objects.list",
    ("POST", False): "storage.objects.create",
    ("DELETE", True): "storage.objects.delete",
    ("PATCH", True): "storage.objects.update",
}

Needed = set[tuple[str, str]]
"""A resource's name, and a permission on it."""


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> Needed:
    """What is asked for from here on, as it is asked for."""
    found: Needed = set()

    def of_pubsub(module: Any) -> None:
        made = module.unary

        def unary(channel: Any, service: str, name: str, request: Any, response: Any, routing: str) -> Any:
            found.add((unquote(routing).rpartition("/")[2], METHODS[name]))
            return made(channel, service, name, request, response, routing)

        monkeypatch.setattr(module, "unary", unary)

    def of_storage(method: str, url: str) -> None:
        seen = OBJECTS.fullmatch(urlsplit(url).path)
        assert seen, url
        if not seen["objects"]:
            found.add((seen["bucket"], "storage.buckets.get"))
            return
        found.add((seen["bucket"], OF_OBJECTS[method, seen["name"] is not None]))
        if method == "POST" and "ifGenerationMatch=0" not in url:
            found.add((seen["bucket"], "storage.objects.delete"))  # what is replaced

    answer, request = ObjectRequests._answer, requests.Session.request

    def answered(self: Any, method: str, target: str, *rest: Any) -> Any:
        of_storage(method, target)
        return answer(self, method, target, *rest)

    def requested(self: Any, method: str, url: str, *rest: Any, **more: Any) -> Any:
        of_storage(method.upper(), url)
        return request(self, method, url, *rest, **more)

    for module in (subscriber, publisher):
        of_pubsub(module)
    monkeypatch.setattr(ObjectRequests, "_answer", answered)
    monkeypatch.setattr(requests.Session, "request", requested)
    return found


def granted() -> Iterator[tuple[str, str]]:
    """What the production overlay allows the worker, by the names that the site here has."""
    it = of_overlay("prod")
    names = {
        it.settings.subscription: WORK.rpartition("/")[2],
        it.settings.results_topic: "results",
        it.settings.dead_letter_topic: "dead-letters",
    }
    for bucket in it.all("StorageBucket"):
        is_ledger = bucket["spec"]["resourceID"] == it.settings.bucket
        names[bucket["metadata"]["name"]] = LEDGER if is_ledger else bucket["metadata"]["name"]
    [google] = it.all("IAMServiceAccount")
    for _, name, role in it.grants(f"account:{google['metadata']['name']}"):
        for permission in ROLES[role]:
            yield names[name], permission


def test_the_worker_may_do_what_it_does_and_has_no_grant_that_it_does_not_use(
    tmp_path: Path, needed: Needed
) -> None:
    asked: Needed = set()

    async def story(server: str) -> None:
        async with open_site(tmp_path, load_steps(plugins=False)) as site:
            site.store = GcsStore("test", server)  # type: ignore[assignment]
            await site.photo()
            needed.clear()  # so far it was us
            async with site.worker(bucket=LEDGER, allowed_buckets=f"{BUCKET},{LEDGER}"):
                good = site.request(UPLOAD)
                for _ in range(2):  # done, and then found done
                    site.publish(good)
                    await site.until_settled(1)
                site.publish(site.request(UPLOAD, image_url=f"gs://{BUCKET}/acme/originals/none.jpg"))
                site.publish(site.request({"type": "step", "name": "no_such_step"}))
                site.publish(good, **{"mlworker-force": "1"})
                await site.until_settled(5, 60)
            asked.update(needed)  # from here on it is us again
            assert site.reasons().count("succeeded") == 2
            assert len(await site.dead_letters()) == 2
            await site.store.close()

    with fake_gcs_server() as server:
        for bucket in (BUCKET, LEDGER):
            make_gcs_bucket(server, bucket)
        asyncio.run(asyncio.wait_for(story(server), 100))

    allowed = set(granted())
    assert asked <= allowed
    assert {name for name, _ in allowed} - {name for name, _ in asked} == {"models"}
    # The copier of the models lists and reads; nobody else may write anywhere but into the ledger.
    assert {permission for name, permission in allowed if name == "models"} == ROLES[
        "roles/storage.objectViewer"
    ]
    assert {name for name, permission in allowed if permission == "storage.objects.create"} == {LEDGER}
