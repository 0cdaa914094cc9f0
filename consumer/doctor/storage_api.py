"""Cloud Storage, asked about buckets rather than objects: what the worker's own store has no need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TypeVar
from urllib.parse import quote

import google.auth
import requests
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from consumer.doctor.checks import Forbidden, Missing, Unanswered, Unreachable, Unsupported
from consumer.doctor.once import Once, aside
from consumer.pipeline.problems import problems_of

R = TypeVar("R", bound="_Resource")

GOOGLE = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_TIMEOUT = 4.0


class _Resource(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class LifecycleAction(_Resource):
    """What a rule does."""

    type: str


class LifecycleCondition(_Resource):
    """When it does it: all of what is set must hold."""

    age: int | None = None
    created_before: date | None = None
    custom_time_before: date | None = None
    days_since_custom_time: int | None = None
    days_since_noncurrent_time: int | None = None
    is_live: bool | None = None
    matches_prefix: tuple[str, ...] = ()
    matches_storage_class: tuple[str, ...] = ()
    matches_suffix: tuple[str, ...] = ()
    noncurrent_time_before: date | None = None
    num_newer_versions: int | None = None


class LifecycleRule(_Resource):
    """One rule of a bucket's lifecycle."""

    action: LifecycleAction
    condition: LifecycleCondition = LifecycleCondition()


class Lifecycle(_Resource):
    """A bucket's rules."""

    rule: tuple[LifecycleRule, ...] = ()


class RetentionPolicy(_Resource):
    """How long objects can be neither replaced nor deleted."""

    retention_period: int = 0
    """Seconds."""


class Bucket(_Resource):
    """What is known of a bucket."""

    name: str
    storage_class: str = "STANDARD"
    lifecycle: Lifecycle = Lifecycle()
    retention_policy: RetentionPolicy = RetentionPolicy()
    default_event_based_hold: bool = False


class Notification(_Resource):
    """To which topic a bucket announces what."""

    topic: str
    """`//pubsub.googleapis.com/projects/P/topics/T`"""
    event_types: tuple[str, ...] = Field((), alias="event_types")
    object_name_prefix: str = Field("", alias="object_name_prefix")


class _Notifications(_Resource):
    items: tuple[Notification, ...] = ()


class _Permitted(_Resource):
    permissions: frozenset[str] = frozenset()


class StorageApi:
    """The JSON API, each question asked once.

    Args:
        emulator: `http://host:port`, which is spoken to without credentials.
    """

    def __init__(self, emulator: str | None = None) -> None:
        self._emulator = emulator
        self._once = Once()

    @property
    def endpoint(self) -> str:
        """Where it is."""
        if not self._emulator:
            return GOOGLE
        return self._emulator.rstrip("/") if "://" in self._emulator else f"http://{self._emulator}"

    async def bucket(self, name: str) -> Bucket:
        """Return what is known of the bucket.

        Raises:
            Missing, Forbidden, Unreachable, Unanswered: there is no telling.
        """
        return await self._get(Bucket, name, "", {"projection": "noAcl"})

    async def permitted(self, name: str, permissions: Sequence[str]) -> frozenset[str]:
        """Return which of the permissions this identity has on the bucket.

        Raises:
            Missing, Unsupported, Unreachable, Unanswered: there is no telling.
        """
        asked = {"permissions": list(permissions)}
        return (await self._get(_Permitted, name, "/iam/testPermissions", asked)).permissions

    async def notifications(self, name: str) -> Sequence[Notification]:
        """Return what the bucket announces.

        Raises:
            Missing, Forbidden, Unsupported, Unreachable, Unanswered: there is no telling.
        """
        return (await self._get(_Notifications, name, "/notificationConfigs", {})).items

    def forget(self) -> None:
        """Drop whatever is still being asked."""
        self._once.forget()

    async def _get(self, shape: type[R], bucket: str, path: str, params: Mapping[str, str | list[str]]) -> R:
        async def ask() -> bytes:
            session = await self._once.get("session", self._session)
            url = f"{self.endpoint}/storage/v1/b/{quote(bucket, safe='')}{path}"
            return await aside(lambda: self._fetch(session, url, bucket, params, is_about_it=not path))

        answer = await self._once.get((bucket, path, str(params)), ask)
        try:
            return shape.model_validate_json(answer)
        except ValidationError as error:
            raise Unanswered(
                f"Cloud Storage answered what cannot be read: {'; '.join(map(str, problems_of(error)))}"
            ) from error

    async def _session(self) -> AuthorizedSession:
        return await aside(lambda: _authorized(anonymous=bool(self._emulator)))

    def _fetch(
        self,
        session: AuthorizedSession,
        url: str,
        bucket: str,
        params: Mapping[str, str | list[str]],
        *,
        is_about_it: bool,
    ) -> bytes:
        try:
            response = session.get(url, params=params, timeout=_TIMEOUT)
        except (requests.RequestException, auth.GoogleAuthError) as error:
            raise Unreachable("bucket.readable", str(error)) from error
        status = response.status_code
        if status in (404, 405, 501) and self._emulator and not is_about_it:
            raise Unsupported("this server knows no such question, as emulators do not")
        if status == requests.codes.not_found:
            raise Missing(f"there is no bucket {bucket!r}")
        if status == requests.codes.forbidden:
            raise Forbidden(
                f"this identity may not look at gs://{bucket} itself: storage.buckets.get would let it"
            )
        if not response.ok:
            raise Unanswered(f"Cloud Storage answered {status}: {response.text[:200]}")
        return bytes(response.content)


def _authorized(*, anonymous: bool) -> AuthorizedSession:
    # google-auth annotates its classes in part.
    if anonymous:
        return AuthorizedSession(AnonymousCredentials())  # type: ignore[no-untyped-call]
    try:
        return AuthorizedSession(google.auth.default(scopes=[_SCOPE])[0])  # type: ignore[no-untyped-call]
    except auth.GoogleAuthError as error:
        raise Unreachable("bucket.readable", str(error)) from error
