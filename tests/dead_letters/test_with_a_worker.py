"""The whole way: a worker gives up, a person looks and replays, a worker does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.command import mlworker
from tests.dead_letters.postbox import WAIT
from tests.end_to_end.site import DEAD_SUB, WORK, Site, open_site
from tests.end_to_end.steps import Toys, toy_steps

LOOK = {"type": "step", "name": "look"}


def play(folder: Path, story: Callable[[Site], Awaitable[None]], toys: Toys | None = None) -> None:
    async def whole() -> None:
        async with open_site(folder, (toys or toy_steps()).registry) as site:
            await story(site)

    asyncio.run(whole())


async def command(site: Site, folder: Path, *words: str | Path, code: int = 0) -> dict[str, Any]:
    audit = [] if words[0] in ("list", "show") else ["--audit", folder / "audit.jsonl"]
    done = await asyncio.to_thread(
        mlworker,
        "dead-letters",
        *words,
        "--wait",
        WAIT,
        "--json",
        *audit,
        GOOGLE_CLOUD_PROJECT="test",
        DEAD_LETTER_SUBSCRIPTION="dead-letters",
        PUBSUB_EMULATOR_HOST=site.broker.address,
    )
    assert done.returncode == code, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def fail(times: int) -> dict[str, Any]:
    return {"type": "step", "name": "fail", "kwargs": {"how": "permanent", "times": times}}


def test_a_replayed_message_runs_again_although_its_failure_is_recorded(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.photo()
        async with site.worker():
            site.publish(site.request(fail(times=1)), origin="test")
            await site.until_settled(1)
            [letter] = (await command(site, tmp_path, "list", "--tenant", "acme"))["dead_letters"]
            assert (letter["code"], letter["step"], letter["replays"]) == ("invalid_input", "steps.0", 0)
            await command(site, tmp_path, "replay", "--id", letter["result_id"])
            await site.until_settled(2)
        assert site.reasons() == ["given_up", "succeeded"]
        failed, done = await site.results()
        assert failed.result_id == done.result_id == letter["result_id"]
        assert (failed.status, done.status) == ("failed", "succeeded")
        assert site.backend.accepted("/results") == {done.result_id: 1}
        assert (site.broker.backlog(DEAD_SUB), site.broker.backlog(WORK)) == (0, 0)

    play(tmp_path, story)


def test_a_patch_mends_what_the_message_got_wrong(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        await site.photo()
        (tmp_path / "patch.json").write_text(json.dumps({"pipeline_definition": {"steps": [LOOK]}}))
        async with site.worker():
            site.publish(site.request({"type": "step", "name": "lok"}))
            await site.until_settled(1)
            await command(
                site, tmp_path, "replay", "--code", "invalid_pipeline", "--patch", tmp_path / "patch.json"
            )
            await site.until_settled(2)
        assert site.reasons() == ["given_up", "succeeded"]
        assert site.broker.backlog(DEAD_SUB) == 0

    play(tmp_path, story)


def test_a_result_the_backend_refused_is_delivered_by_a_replay_and_not_computed_again(tmp_path: Path) -> None:
    toys = toy_steps()

    async def story(site: Site) -> None:
        await site.photo()
        body = site.request(LOOK)
        site.backend.answers = [422]
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            told = await command(site, tmp_path, "replay", "--code", "callback_failed")
            assert len(told["replayed"]) == 1
            await site.until_settled(2)
        assert site.reasons() == ["given_up", "succeeded"]
        assert toys.runs[body["image_id"]] == 1
        assert len(site.backend.accepted("/results")) == 1

    play(tmp_path, story, toys)


def test_replays_of_what_never_can_be_done_come_to_an_end(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        async with site.worker():
            site.publish(b"\xff not json")
            await site.until_settled(1)
            told = await command(site, tmp_path, "replay", "--max-replays", "1")
            assert len(told["replayed"]) == 1
            await site.until_settled(2)
            told = await command(site, tmp_path, "replay", "--max-replays", "1", code=1)
        assert [one["why"] for one in told["kept"]] == ["replayed 1 times already (--max-replays 1)"]
        assert site.reasons() == ["given_up"] * 2
        assert site.broker.backlog(DEAD_SUB) == 1

    play(tmp_path, story)
