"""The demo: the main job end to end, on generated photos and on files of one's own."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from consumer.local.demo import run_demo
from consumer.local.photos import generated_photo, photo_files
from contracts.result import ProcessingResult
from pipeline_steps.image.intake import read_image
from tests.monitoring.rules import SCALER, metrics_in, queries, rules

SMALL = (480, 640)


@dataclass(frozen=True)
class Ran:
    """A demo that was run."""

    code: int
    out: Path
    stdout: str
    stderr: str
    summary: dict[str, Any]

    @property
    def images(self) -> list[dict[str, Any]]:
        images: list[dict[str, Any]] = self.summary["images"]
        return images

    @property
    def events(self) -> Counter[str]:
        """How often each event stands in the worker's log."""
        lines = (self.out / "worker.log").read_text().splitlines()
        return Counter(json.loads(line)["event"] for line in lines if line.startswith("{"))


def run(out: Path, images: Path | None = None, *, json_output: bool) -> Ran:
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = asyncio.run(
            run_demo(images=images, out=out, count=4, seed=11, json_output=json_output, size=SMALL)
        )
    summary = json.loads((out / "summary.json").read_text())
    return Ran(code, out, stdout.getvalue(), stderr.getvalue(), summary)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    before = threading.active_count()
    yield run(tmp_path_factory.mktemp("generated") / "out", json_output=True)
    assert threading.active_count() <= before


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    images = tmp_path_factory.mktemp("own")
    generated_photo(3, 1, images, *SMALL)  # a JPEG on its side
    (images / "text.jpg").write_text("this is no photo, whatever its name says")
    (images / "notes.txt").write_text("not taken for a photo")
    return run(images / "out", images, json_output=False)


def test_every_message_is_acked_with_a_result_and_a_callback(generated: Ran) -> None:
    assert generated.code == 0
    assert list(generated.summary) == [
        "messages", "acked", "results", "callbacks", "dead_lettered", "seconds", "images",
    ]  # fmt: skip
    assert [generated.summary[name] for name in ("messages", "acked", "results", "callbacks")] == [4] * 4
    assert generated.summary["dead_lettered"] == 0


def test_half_of_the_photos_come_by_notification_and_of_several_tenants(generated: Ran) -> None:
    assert Counter(image["trigger"] for image in generated.images) == {"message": 2, "notification": 2}
    assert len({image["tenant_id"] for image in generated.images}) >= 2


def test_the_workers_own_outputs_start_no_run(generated: Ran) -> None:
    assert generated.events["succeeded"] == 4
    assert generated.events["failed"] == 0


def test_each_photo_has_a_result_and_a_picture_in_the_output_folder(generated: Ran) -> None:
    for image in generated.images:
        result = ProcessingResult.model_validate_json((generated.out / image["result"]).read_bytes())
        with Image.open(generated.out / image["annotated"]) as picture:
            assert picture.size == (SMALL[1], SMALL[0])
        assert str(result.image_id) == image["image_id"]
        assert str(result.session_id) == image["session_id"]
        assert len(result.detections) == image["count"]
        assert (generated.out / image["source"]).is_file()


def test_counts_are_near_the_truth_of_the_generator(generated: Ran) -> None:
    truth = json.loads((generated.out / "truth.json").read_text())

    for image in generated.images:
        assert image["expected_count"] == len(truth[image["source"]]["plants"])
    found = sum(image["count"] for image in generated.images)
    expected = sum(image["expected_count"] for image in generated.images)
    assert abs(found - expected) <= 0.2 * expected


def test_with_json_only_the_summary_is_printed(generated: Ran) -> None:
    assert json.loads(generated.stdout) == generated.summary
    assert generated.stderr == ""


def test_the_gallery_shows_every_photo(generated: Ran) -> None:
    page = (generated.out / "index.html").read_text()

    for image in generated.images:
        assert image["source"] in page
        assert image["annotated"] in page


def test_a_demo_has_data_for_the_whole_dashboard_but_for_what_is_googles(generated: Ran) -> None:
    families = text_string_to_metric_families((generated.out / "metrics.txt").read_text())
    told = {sample.name for family in families for sample in family.samples}
    of_rules = {name for rule in rules(SCALER) for name in metrics_in(rule["expr"])}
    asked = {name for query in queries() for name in metrics_in(query.expression)} | of_rules
    of_workers = {name for name in asked if name.startswith("mlworker_")}

    assert len(of_workers) > 15
    assert of_workers <= told


def test_a_text_named_jpg_is_dead_lettered_and_has_its_row(own: Ran) -> None:
    assert own.code == 1
    assert own.summary["messages"] == own.summary["acked"] == 2
    assert own.summary["dead_lettered"] == 1
    text = next(image for image in own.images if image["source"].endswith("text.jpg"))
    assert (text["status"], text["count"], text["annotated"]) == ("failed", None, None)
    assert "text.jpg" in own.stdout
    assert "unreadable_image" in own.stdout


def test_a_photo_of_ones_own_is_counted_and_nothing_is_expected_of_it(own: Ran) -> None:
    photo = next(image for image in own.images if image["source"].endswith("demo-02.jpg"))

    assert photo["status"] == "succeeded"
    assert photo["count"] > 0
    assert photo["expected_count"] is None


def test_models_of_ones_own_are_those_that_run(tmp_path: Path) -> None:
    mine = tmp_path / "models"
    mine.mkdir()
    packaged = files("consumer.local") / "models"
    plants = yaml.safe_load((packaged / "models.yaml").read_text())["models"][0]
    (mine / "models.yaml").write_text(json.dumps({"models": [{**plants, "version": "of my own"}]}))
    (mine / plants["weights"]).write_bytes((packaged / plants["weights"]).read_bytes())
    out = tmp_path / "out"

    asyncio.run(run_demo(images=None, out=out, count=1, seed=3, json_output=True, model_path=str(mine)))

    (image,) = json.loads((out / "summary.json").read_text())["images"]
    result = ProcessingResult.model_validate_json((out / image["result"]).read_bytes())
    assert [(model.name, model.version) for model in result.models] == [("plants", "of my own")]


def test_a_folder_without_photos_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = asyncio.run(run_demo(images=tmp_path, out=tmp_path / "out", count=1, seed=1, json_output=False))

    assert code == 2
    assert "expected photos" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_photos_in_many_formats(tmp_path: Path) -> None:
    first = [generated_photo(5, index, tmp_path / "a", 120, 160) for index in range(8)]
    again = [generated_photo(5, index, tmp_path / "b", 120, 160) for index in range(8)]
    other = generated_photo(-6, 0, tmp_path / "c", 120, 160)

    assert [photo.truth for photo in first] == [photo.truth for photo in again]
    assert other.truth != first[0].truth
    assert len(photo_files(tmp_path / "a")) == 8
    read = [read_image(photo.path.read_bytes(), max_pixels=10**6, name=photo.name) for photo in first]
    assert {image.format for image in read} == {"JPEG", "PNG", "WEBP", "TIFF"}
    assert sum(image.orientation_applied for image in read) == 3
    # However a photo lies in its file, the truth is about the upright picture.
    assert {image.pixels.shape for image in read} == {(120, 160, 3)}
