"""Settings for local mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import JsonValue
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from consumer.settings import Settings


class GivenSettings(Settings):
    """Settings that are what they are given: an environment meant for production changes nothing here."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the arguments alone."""
        del settings_cls
        return (init_settings,)


def given_settings(values: Mapping[str, object]) -> Settings:
    """Return the settings of a worker on this machine; `values` say the rest, and may say otherwise."""
    local = {
        "callback_allowed_hosts": ("http://localhost", "http://127.0.0.1"),  # a backend under development
        "drain_timeout": 10.0,  # a person waits
        "port": 0,
    }
    return GivenSettings.model_validate({**local, **values})


def write_routes(file: Path, routes: Sequence[Mapping[str, JsonValue]]) -> Path:
    """Write a routes file and return its path. Blocks."""
    file.write_text(yaml.safe_dump({"routes": [dict(route) for route in routes]}))
    return file
