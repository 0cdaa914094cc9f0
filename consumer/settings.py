"""Configuration: the one place that reads the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AnyHttpUrl,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.request import TenantId

Words = Annotated[tuple[str, ...], NoDecode]
"""Comma-separated in the environment."""
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class InvalidSettings(ValueError):
    """The environment cannot be used; the message lists every variable and what it should be."""


class Settings(BaseSettings):
    """Everything a worker is told from outside. Times are seconds, sizes bytes."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # Google Cloud
    google_cloud_project: str = Field(
        min_length=1, description="Project of topics, subscription and buckets."
    )
    subscription: str = Field(min_length=3, description="Where messages are pulled from: short or full name.")
    results_topic: str = Field(min_length=3, description="Where results are published.")
    dead_letter_topic: str = Field(min_length=3, description="Where given-up messages are published.")
    dead_letter_subscription: str | None = Field(
        None, description="Where `mlworker dead-letters` reads given-up messages."
    )
    requests_topic: str | None = Field(None, description="Where `mlworker submit` and `backfill` publish.")
    bucket: str = Field(min_length=3, description="Bucket of the ledger and of stored pictures.")
    allowed_buckets: Words = Field((), description="Buckets photos may be read from; by default `BUCKET`.")
    pubsub_emulator_host: str | None = Field(None, description="host:port of a Pub/Sub emulator.")
    storage_emulator_host: str | None = Field(None, description="URL of a Cloud Storage emulator.")

    # Who may read what
    image_prefixes: Words = Field(
        ("{tenant_id}/",),
        description="Folders photos may lie in: templates over {tenant_id}, {session_id}, {image_id}. "
        "A backend that stores by session needs `cultivadores/sessions/{session_id}/images/` too.",
    )
    allow_shared_prefixes: bool = Field(False, description="Allow prefixes without a placeholder.")
    routes_file: Path | None = Field(
        None, description="YAML: which bucket notifications start which pipeline."
    )
    presets_file: Path | None = Field(None, description="YAML: pipelines by name, for the older message.")

    # Models
    model_path: str = Field(
        "demo", description="Folder or gs:// prefix of models.yaml; `demo`: the packaged ones."
    )
    devices: Words = Field((), description="Such as `cuda:0,cuda:1`; by default all GPUs, else `cpu`.")
    warm_up: Literal["before_ready", "after_ready"] = Field(
        "before_ready",
        description="`after_ready`: messages are taken once models are loaded; the first wait while they "
        "warm up.",
    )

    # The backend
    backend_url: AnyHttpUrl | Literal["none"] = Field(
        description="Where results are called back; `none`: only where a message names a callback_url."
    )
    backend_callback_timeout: PositiveFloat = Field(30.0, description="For one call.")
    callback_allowed_hosts: Words = Field(
        (), description="Hosts a message's own callback_url may name; `*.` and `http://` prefixes allowed."
    )
    callback_auth: Literal["none", "oidc", "hmac"] = Field("none", description="How callbacks are signed.")
    callback_hmac_key_file: Path | None = Field(None, description="File with the key, for `hmac`.")
    callback_not_found_wait: float = Field(
        120.0, ge=0, description="How long a 404 of the backend is retried: it may publish before it commits."
    )

    # Limits
    slots: PositiveInt | None = Field(
        None, description="Pipelines at a time; by default 4 for each device, and one more."
    )
    max_attempts: PositiveInt = Field(5, description="Tries of a message whose failures are transient.")
    hold_timeout: PositiveFloat = Field(7200.0, description="How long an outage is waited through.")
    pipeline_timeout: PositiveFloat = Field(1800.0, description="For one run of a pipeline.")
    drain_timeout: PositiveFloat = Field(300.0, description="For work in flight after SIGTERM.")
    drain_mode: Literal["finish", "abort"] = Field(
        "finish", description="`abort`: hand everything back within 10 s, as Spot nodes need it."
    )
    grace_period: PositiveFloat = Field(
        330.0, description="The pod's terminationGracePeriodSeconds, for `mlworker doctor` to check against."
    )
    lease_seconds: int = Field(
        120, ge=2, le=600, description="What leases are extended to, every quarter of it; 10 at least."
    )
    brake_dead_letters: int = Field(
        20,
        ge=0,
        description="Dead letters for one reason in 5 minutes above which pulling stops; 0: never.",
    )
    ledger: Literal["on", "off"] = Field("on", description="Off: no record, so plain at-least-once.")
    model_memory: PositiveInt | None = Field(
        None, description="Bytes each device may hold for models; those not pinned make room for each other."
    )
    embedding_memory: NonNegativeInt = Field(
        128 << 20,
        description="Bytes of what `sam` models made of pictures that are kept on the devices for a tenant's "
        "other messages about the same pictures; 0: none.",
    )
    max_message_bytes: PositiveInt = Field(10_000_000, description="Largest message that is read.")
    max_image_bytes: PositiveInt = Field(200_000_000, description="Largest photo that is fetched.")
    max_image_pixels: PositiveInt = Field(200_000_000, description="Most pixels a photo may have.")
    decoded_memory: PositiveInt | None = Field(
        None,
        description="Bytes that decoded photos may take at a time; by default a quarter of the container's "
        "memory. A photo that is larger is decoded alone.",
    )
    max_result_bytes: PositiveInt = Field(50_000_000, description="Largest result that is kept and sent.")
    claim_check_bytes: PositiveInt = Field(
        9_000_000, description="Larger results are published by reference."
    )
    tenant_concurrency: PositiveInt | None = Field(
        None,
        description="Slots one tenant may hold; by default all but one (of 3 or more), which is for a tenant "
        "that has none.",
    )

    tenant_shares: Annotated[Mapping[TenantId, Share], NoDecode] = Field(
        {},
        description="Shares of the devices' time, such as `acme=3,other=0.5`; 1 for a tenant that is not "
        "named. A share that its tenant does not use goes to the others.",
    )

    # Operation
    failpoints: str | None = Field(None, description="For tests in local mode: where to fail, and how.")
    port: int = Field(8080, ge=0, le=65535, description="Of probes and metrics.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe log.")
    log_format: Literal["json", "console"] = Field("json", description="`console` for people.")
    otel_exporter_otlp_endpoint: AnyHttpUrl | None = Field(
        None,
        description="Where traces are sent, by OTLP over HTTP, such as `http://collector:4318`; "
        "by default there are none.",
    )
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        "parentbased_always_on",
        description="Which messages are traced; `parentbased_`: as their publisher decided, if it did.",
    )
    otel_traces_sampler_arg: float = Field(
        1.0, ge=0, le=1, description="The share of messages that are traced, for `traceidratio`."
    )
    otel_service_name: str = Field("mlworker", min_length=1, description="What traces call this worker.")

    @field_validator("allowed_buckets", "image_prefixes", "devices", "callback_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(word.strip() for word in value.split(",") if word.strip())
        return value

    @field_validator("tenant_shares", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any) -> Any:
        if isinstance(value, str):
            pairs = [word.rpartition("=") for word in cls._split(value)]
            shares = {tenant.strip(): share for tenant, _, share in pairs}
            if len(shares) < len(pairs):
                raise ValueError("expected one share for each tenant")
            return shares
        return value

    @model_validator(mode="after")
    def _check_prefixes(self) -> Self:
        for prefix in self.image_prefixes:
            _check_placeholders(prefix)
        if not self.allow_shared_prefixes:
            shared = [prefix for prefix in self.image_prefixes if "{" not in prefix]
            if shared:
                raise ValueError(
                    f"IMAGE_PREFIXES: {', '.join(shared)} would let every tenant read the same folder; "
                    "use {tenant_id} or {session_id}, or set ALLOW_SHARED_PREFIXES=1"
                )
        if self.pubsub_emulator_host is None:
            if self.failpoints:
                raise ValueError("FAILPOINTS: only with PUBSUB_EMULATOR_HOST: they make a worker fail")
            if any(device.partition(":")[0] == "simulated" for device in self.devices):
                raise ValueError("DEVICES: `simulated` only with PUBSUB_EMULATOR_HOST: it finds nothing real")
            if self.lease_seconds < 10:
                raise ValueError("LEASE_SECONDS: Pub/Sub leases for 10 s at least")
        if self.callback_auth == "hmac" and self.callback_hmac_key_file is None:
            raise ValueError("CALLBACK_HMAC_KEY_FILE: required with CALLBACK_AUTH=hmac")
        return self

    @property
    def input_buckets(self) -> frozenset[str]:
        """Buckets photos may be read from."""
        return frozenset(self.allowed_buckets or (self.bucket,))

    @property
    def subscription_path(self) -> str:
        """Full name of the subscription."""
        return full_name("subscriptions", self.subscription, self.google_cloud_project)


def _check_placeholders(prefix: str) -> None:
    """Raise a `ValueError` unless `prefix` can be filled in: better now than with every message."""
    known = ("tenant_id", "session_id", "image_id")
    try:
        fields = [field for _, *field in Formatter().parse(prefix) if field[0] is not None]
    except ValueError as error:
        raise ValueError(f"IMAGE_PREFIXES: {prefix}: {error}") from error
    for name, *rest in fields:
        if name not in known or any(rest):
            raise ValueError(
                f"IMAGE_PREFIXES: {prefix}: expected {{tenant_id}}, {{session_id}} or {{image_id}}"
            )


class EmulatorSettings(BaseSettings):
    """What local mode reads: servers to use instead of the embedded ones, by the clients' own variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    pubsub_emulator_host: str | None = None
    storage_emulator_host: str | None = None


def full_name(collection: str, name: str, project: str) -> str:
    """Return the full resource name of a topic or subscription given short or full."""
    return name if name.startswith("projects/") else f"projects/{project}/{collection}/{name}"


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the environment.

    Raises:
        InvalidSettings: naming every variable that is missing or wrong.
    """
    try:
        return Settings(**(overrides or {}))  # type: ignore[arg-type]  # the environment gives the rest
    except ValidationError as error:
        wrong: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            message = (
                "required" if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")
            )
            # A union's alternatives and a list's items follow the variable's name.
            wrong.setdefault(str(detail["loc"][0]).upper() if detail["loc"] else "", []).append(message)
        lines = [f"{name}: {'; '.join(said)}" if name else "; ".join(said) for name, said in wrong.items()]
        raise InvalidSettings("\n".join(lines)) from error
