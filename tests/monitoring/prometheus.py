"""A real Prometheus that scrapes what it is told to, every second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.monitoring.rules import tool
from tests.peers import free_port

Groups = Sequence[dict[str, Any]]


@asynccontextmanager
async def scraping(
    folder: Path, jobs: dict[str, dict[str, Any]], rules: Groups = ()
) -> AsyncIterator[httpx.AsyncClient]:
    """Run one that keeps exemplars, while the context lasts, and give what asks it.

    It skips the test where Prometheus is not installed.

    Args:
        folder: where its files go.
        jobs: by name, the `static_configs` entry of what is scraped.
        rules: groups of them, evaluated every second too.
    """
    prometheus = tool("prometheus")
    every_second = [{**group, "interval": "1s"} for group in rules]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": every_second}))
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": name, "static_configs": [it]} for name, it in jobs.items()],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(settings))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            prometheus,
            "--config.file=prometheus.yaml",
            "--enable-feature=exemplar-storage",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    async with httpx.AsyncClient(trust_env=False, base_url=f"http://{address}") as client:
        try:
            end = time.monotonic() + 30
            while not await _is_ready(client):
                assert process.returncode is None, (folder / "log").read_text()
                assert time.monotonic() < end, "Prometheus is not ready after 30 s"
                await asyncio.sleep(0.2)
            yield client
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/-/ready")).status_code == 200
    except httpx.TransportError:
        return False
