"""Which photos start work by landing in a bucket: the routes file against everything it speaks of."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import yaml

from consumer.doctor.checks import Findings, Skip, check
from consumer.doctor.findings import error, ok, skipped, warning
from consumer.doctor.pipelines import models_if_known, problems_of_pipeline
from consumer.doctor.site import Site
from consumer.doctor.storage_api import Notification
from consumer.errors import CallbackFailed
from consumer.jobs import Ids, Source
from consumer.routes import InvalidRoutes, RouteEntry, is_our_own, load_routes
from consumer.sources import SourceRules
from pipeline_steps.errors import NotAllowed

_TENANT, _ID = "some-tenant", UUID(int=0)


@check("routes.file", fix="correct the file: docs/notifications.md shows one", needs_network=False)
async def routes_file(site: Site) -> Findings:
    """ROUTES_FILE can be read.

    The worker does not start without it.
    """
    path = site.settings.routes_file
    try:
        routes = load_routes(path)
    except InvalidRoutes as wrong:
        for problem in str(wrong).splitlines():
            yield error(str(path), problem.removeprefix(f"{path}: "), "a usable file of routes")
    else:
        yield ok("ROUTES_FILE", f"{len(routes.routes)} routes in {path}" if path else "not set: no routes")


@check(
    "routes.pipelines",
    fix="correct the route in ROUTES_FILE, or models.yaml, or PIPELINE_TIMEOUT",
    needs_network=False,
)
async def pipelines(site: Site) -> Findings:
    """Every route's pipeline can run here: its steps, its models, and its times within PIPELINE_TIMEOUT.

    The worker does not start with a route that cannot run; one whose times do not fit would give up every
    photo.
    """
    models = await models_if_known(site)
    for i, route in enumerate(site.routes().routes):
        for finding in problems_of_pipeline(site, f"routes.{i}", route.definition, route.settings, models):
            yield finding


@check("routes.access", fix="ALLOWED_BUCKETS and IMAGE_PREFIXES must cover the route", needs_network=False)
async def access(site: Site) -> Findings:
    """The worker may read the photos that routes send it.

    A photo outside of ALLOWED_BUCKETS and IMAGE_PREFIXES is given up; one in a folder of the worker's own,
    such as `processed/`, starts nothing.
    """
    rules = SourceRules(site.settings.input_buckets, site.settings.image_prefixes)
    for subject, entry in _entries(site):
        name = f"{entry.prefix.replace('{tenant_id}', _TENANT).rstrip('/')}/photo.jpg"
        if is_our_own(name):
            yield warning(
                subject,
                f"{entry.prefix} is a folder of the worker's own: nothing in it starts work",
                "another folder",
                "another prefix in ROUTES_FILE",
            )
            continue
        try:
            rules.check(Ids(_TENANT, _ID, _ID), Source(entry.bucket, name))
        except NotAllowed as refused:
            yield error(subject, str(refused), "a photo that may be read")
        else:
            yield ok(subject, f"gs://{entry.bucket}/{entry.prefix} may be read")


@check(
    "routes.callback", fix="CALLBACK_ALLOWED_HOSTS, or another callback in ROUTES_FILE", needs_network=False
)
async def callbacks(site: Site) -> Findings:
    """The urls that routes call back may be called.

    The results of a route whose url is not allowed are given up, all of them.
    """
    for subject, entry in _entries(site):
        if isinstance(entry.callback, str):
            try:
                host = site.hosts().check(entry.callback)
            except CallbackFailed as refused:
                yield error(subject, str(refused), "a url that may be called")
            else:
                yield ok(subject, f"calls back {host}")  # its path may hold a secret
        elif entry.callback and site.settings.backend_url == "none":
            yield warning(
                subject,
                "wants a callback, and BACKEND_URL is none: nobody is called",
                "a url, or `callback: false`",
                "`callback: false` in ROUTES_FILE, or BACKEND_URL",
            )


@check(
    "routes.notifications",
    fix="gcloud storage buckets notifications create gs://{bucket} --topic={requests_topic} "
    "--event-types=OBJECT_FINALIZE",
)
async def notifications(site: Site) -> Findings:
    """The buckets of routes announce new objects to the worker's topic.

    Without a notification photos land in the bucket, and nothing happens.
    """
    entries = list(_entries(site))
    if not entries:
        return
    topic = (await site.subscription()).topic
    for bucket in sorted({entry.bucket for _, entry in entries}):
        try:
            announced = await site.storage_api.notifications(bucket)
        except Skip as why:
            yield skipped(f"gs://{bucket}", str(why))
            continue
        # What all names of a route begin with: a notification for a part of them leaves out the others.
        begin = {entry.prefix.partition("{tenant_id}")[0] for _, entry in entries if entry.bucket == bucket}
        prefixes = {found.object_name_prefix for found in announced if _announces(found, topic)}
        if all(name.startswith(tuple(prefixes)) for name in begin):
            yield ok(f"gs://{bucket}", f"announces new objects to {topic}")
            continue
        narrow = ", ".join(f"{prefix}…" for prefix in sorted(prefixes))
        say = warning if prefixes else error
        yield say(
            f"gs://{bucket}",
            f"announces only {narrow} to {topic}" if prefixes else f"announces nothing to {topic}",
            "OBJECT_FINALIZE notifications of every photo",
            f"gcloud storage buckets notifications create gs://{bucket} --topic={topic} "
            "--event-types=OBJECT_FINALIZE",
        )


def _announces(notification: Notification, topic: str) -> bool:
    is_the_topic = notification.topic.removeprefix("//pubsub.googleapis.com/") == topic
    return is_the_topic and (not notification.event_types or "OBJECT_FINALIZE" in notification.event_types)


def _entries(site: Site) -> Iterator[tuple[str, RouteEntry]]:
    """Yield the routes as the file has them, each with what it is called."""
    site.routes()  # the file can be used
    path = site.settings.routes_file
    items = yaml.safe_load(path.read_text())["routes"] if path else []
    for i, item in enumerate(items):
        yield f"routes.{i}", RouteEntry.model_validate(item)
