"""Settings for local mode."""

from __future__ import annotations

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
