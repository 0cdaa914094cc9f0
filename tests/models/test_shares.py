"""`TENANT_SHARES`, from the setting to the device: who has a larger share is served first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from consumer.models.opening import open_models
from consumer.settings import Settings
from consumer.storage.filesystem import FilesystemStore

PICTURE = np.zeros((40, 60, 3), np.uint8)


def settings(shares: str) -> Settings:
    return Settings(
        google_cloud_project="p",
        subscription="requests",
        results_topic="results",
        dead_letter_topic="dead-letters",
        bucket="photos",
        backend_url="https://backend.example",
        pubsub_emulator_host="127.0.0.1:1",
        model_path="demo",
        devices="simulated:fixed=0.002",
        tenant_shares=shares,
    )


@pytest.mark.parametrize(
    ("shares", "first"), [("acme=5", "acme"), ("other=5", "other"), ("acme=0.2", "other")]
)
def test_of_two_tenants_that_ask_as_much_the_one_with_the_larger_share_is_answered_first(
    shares: str, first: str, tmp_path: Path
) -> None:
    answered: list[str] = []

    async def ask() -> None:
        async with open_models(settings(shares), FilesystemStore(tmp_path)) as models:
            await models.warm

            async def wait(tenant: str) -> None:
                await models.pool.for_job(tenant, tenant).detect("plants", [PICTURE] * 100)
                answered.append(tenant)

            await asyncio.gather(wait("acme"), wait("other"))

    asyncio.run(ask())

    assert answered[0] == first
