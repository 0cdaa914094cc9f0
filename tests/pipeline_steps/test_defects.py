"""The originals' defects that concern steps, each by its number in `docs/defects.md`."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from pydantic import ValidationError

from pipeline_steps.artifacts import Detections, Image, Size
from pipeline_steps.errors import DeviceOverloaded
from pipeline_steps.findings.count import CountParams, count
from pipeline_steps.findings.segment_filter import SegmentFilterParams, filter_segments
from pipeline_steps.findings.size_calculator import SizeCalculatorParams, calculate
from pipeline_steps.findings.species_distributor import SpeciesDistributorParams, distribute
from pipeline_steps.image.intake import read_image
from pipeline_steps.image.upload_image import UploadImageParams, upload
from pipeline_steps.image.visualize_detections import VisualizeParams, visualize
from pipeline_steps.loading import load_steps
from pipeline_steps.vision.detection import DetectionParams, detect
from pipeline_steps.vision.sahi_detection import SahiDetectionParams, detect_in_tiles
from tests.pipeline_steps.fakes import (
    MemoryStore,
    SeeingModels,
    context,
    detections_of,
    painted,
    segments_of,
)
from tests.pipeline_steps.findings.test_count import estimates

TRAY = painted(
    400,
    300,
    ("plant", (110, 60, 130, 80), 0.9),
    ("plant", (150, 60, 170, 80), 0.8),
    ("plant", (110, 100, 150, 160), 0.7),
)
IN_TRAY = segments_of(("cajon", (100.4, 49.6, 300.0, 250.0)))


def found_in_tray() -> Detections:
    return asyncio.run(detect(TRAY, IN_TRAY, None, DetectionParams(segment_type="cajon"), context()))


def test_1_one_upload_never_inherits_the_others_folder(store: MemoryStore) -> None:
    """Defect 1: kwargs leaked into the next step, so the annotated picture overwrote the original."""
    first = UploadImageParams(source="original", dest_prefix="originals", thumbnail_sizes=())
    second = UploadImageParams(source="processed", thumbnail_sizes=())
    overlay = visualize(TRAY, found_in_tray(), None, IN_TRAY, None, VisualizeParams())

    asyncio.run(upload(TRAY, None, first, context(store=store)))
    original = store.files["originals/photo.jpg"]
    asyncio.run(upload(TRAY, overlay, second, context(store=store)))

    assert sorted(store.files) == ["originals/photo.jpg", "processed/photo.jpg"]
    assert store.files["originals/photo.jpg"] == original


def test_1_params_cannot_be_changed_by_anyone() -> None:
    """Defect 1: a step's parameters were one dictionary, written to by every step."""
    for step in load_steps(plugins=False):
        params = step.params()
        for name in step.params.model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(params, name, None)


def test_3_every_detection_has_a_box() -> None:
    """Defect 3: detectors gave no `bbox`, so every real detection's box was null in the callback."""
    found = found_in_tray()

    assert len(found) == 3
    assert found.xyxy.shape == (3, 4)
    assert np.isfinite(found.xyxy).all()
    assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()


def test_4_totals_sizes_and_species_are_there_to_be_reported() -> None:
    """Defect 4: the callback's estimations were always empty, since no step produced them."""
    found = found_in_tray()

    totals, _ = count(TRAY, found, IN_TRAY, None, CountParams())
    sizes = calculate(found, None, SizeCalculatorParams())
    species = distribute(found, None, SpeciesDistributorParams(species=("rosa", "aloe")))

    assert totals.total_count == len(sizes) == len(species) == 3


def test_5_sizes_come_from_the_detectors_own_boxes() -> None:
    """Defect 5: sizes read a field detectors never wrote, so all plants were M."""
    plants = [("plant", (20 * i, 10, 20 * i + 10, 20), 0.9) for i in range(12)]
    picture = painted(400, 100, *plants, ("plant", (300, 10, 380, 90), 0.6))

    found = asyncio.run(detect(picture, None, None, DetectionParams(), context()))
    sizes = calculate(found, None, SizeCalculatorParams())

    assert sizes.size.tolist() == [Size.M] * 12 + [Size.XL]


def test_6_the_largest_segment_is_the_largest_in_whatever_order_they_come() -> None:
    """Defect 6: the filter compared a field that segmentation never wrote, and kept the first one."""
    segments = segments_of(("cajon", (0, 0, 10, 10)), ("cajon", (0, 0, 90, 90)), ("cajon", (0, 0, 50, 50)))
    params = SegmentFilterParams(segment_filter_type="largest_by_class", segment_filter_classes=("cajon",))

    kept, _ = filter_segments(TRAY, segments, params, context())

    assert kept.area_px.tolist() == [8100]


def test_6_one_class_without_a_list_is_a_class_not_letters() -> None:
    """Defect 6: `segment_filter_classes: "cajon"` became the classes c, a, j, o, n."""
    params = SegmentFilterParams.model_validate({"segment_filter_classes": "cajon"})

    assert params.segment_filter_classes == ("cajon",)


def test_7_boxes_found_in_a_crop_are_full_image_pixels() -> None:
    """Defect 7: stored boxes were relative to the crop."""
    assert found_in_tray().xyxy[0].tolist() == [110, 60, 130, 80]


def test_7_the_offset_is_the_corner_that_was_cut_not_the_one_that_was_meant() -> None:
    """Defect 7: the crop began at rounded pixels, but boxes were moved by the unrounded ones."""
    for edge in (99.5, 99.6, 100.0, 100.4, 100.5):
        segments = segments_of(("cajon", (edge, edge / 2, 300, 250)))
        params = DetectionParams(segment_type="cajon")

        found = asyncio.run(detect(TRAY, segments, None, params, context()))

        assert found.xyxy[0].tolist() == [110, 60, 130, 80]


def test_8_a_segment_that_fails_in_tiles_fails_the_step() -> None:
    """Defect 8: a RuntimeError per segment was swallowed: no detections, and success."""
    models = SeeingModels()
    models.failing = DeviceOverloaded("no memory")

    with pytest.raises(DeviceOverloaded):
        asyncio.run(
            detect_in_tiles(TRAY, IN_TRAY, None, SahiDetectionParams(segment_type="cajon"), context(models))
        )


def test_8_steps_import_nothing_that_is_not_declared() -> None:
    """Defect 8: `sahi` and `onnxruntime` were imported, and stood in no dependency file."""
    code = "import sys, pipeline_steps.loading as r; r.load_steps(plugins=False); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "pipeline_steps.vision.sahi_detection" in loaded.split()
    assert not {"sahi", "onnxruntime", "ultralytics", "cv2"} & set(loaded.split())


def test_10_steps_leave_no_files_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: MemoryStore
) -> None:
    """Defect 10: crops and drawings went to a shared /tmp, named by session, and were never deleted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    segments, crops = filter_segments(TRAY, IN_TRAY, SegmentFilterParams(), context())
    found = asyncio.run(detect(TRAY, segments, crops, DetectionParams(segment_type="cajon"), context()))
    overlay = visualize(TRAY, found, None, segments, None, VisualizeParams())
    asyncio.run(upload(TRAY, overlay, UploadImageParams(source="processed"), context(store=store)))

    assert list(tmp_path.iterdir()) == []
    assert len(crops) == 1


def test_10_two_pictures_of_one_session_have_crops_of_their_own() -> None:
    """Defect 10: two pictures of one session overwrote each other's crops."""
    other = painted(400, 300)

    _, crops = filter_segments(TRAY, IN_TRAY, SegmentFilterParams(), context())
    _, others = filter_segments(other, IN_TRAY, SegmentFilterParams(), context())

    assert crops.image[0].pixels.any()
    assert not others.image[0].pixels.any()


@pytest.mark.parametrize("prefix", ["../u", "..", "originals/..", "/originals", "models", "results", "o\\u"])
def test_14_no_folder_leads_out_of_the_tenants_own(prefix: str) -> None:
    """Defect 14: `t/../u/secret.jpg` was accepted."""
    with pytest.raises(ValidationError):
        UploadImageParams(dest_prefix=prefix)


@pytest.mark.parametrize("name", ["../x", "..", "a/../b", "/x", "{image_id}/x", "a\\b"])
def test_14_no_file_name_leads_out_of_its_folder(name: str) -> None:
    """Defect 14, for the name of the file."""
    with pytest.raises(ValidationError):
        UploadImageParams(name=name)


def file_of(picture: Pillow.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_15_a_photo_is_stored_upright(store: MemoryStore) -> None:
    """Defect 15: EXIF orientation was lost, so boxes no longer fitted the stored picture."""
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turned a quarter: 40 x 20 as stored is 20 x 40 as seen
    photo = file_of(Pillow.new("RGB", (40, 20), (0, 90, 0)), "JPEG", exif=exif)

    pixels = read_image(photo, max_pixels=10_000, name="photo").pixels
    asyncio.run(upload(Image(pixels), None, UploadImageParams(thumbnail_sizes=()), context(store=store)))

    stored = Pillow.open(io.BytesIO(store.files["images/photo.jpg"]))
    assert stored.size == (20, 40)
    assert 0x0112 not in stored.getexif()


@pytest.mark.parametrize("mode", ["LA", "I;16", "P", "RGBA", "CMYK", "1"])
def test_15_pictures_of_any_mode_are_stored(mode: str, store: MemoryStore) -> None:
    """Defect 15: modes LA and I;16 crashed the upload."""
    data = file_of(Pillow.new(mode, (40, 20)), "TIFF" if mode == "CMYK" else "PNG")

    pixels = read_image(data, max_pixels=10_000, name="photo").pixels
    asyncio.run(upload(Image(pixels), None, UploadImageParams(), context(store=store)))

    assert len(store.files) == 3


def test_15_a_very_flat_picture_has_thumbnails_of_one_row(store: MemoryStore) -> None:
    """Defect 15: 3000 x 2 pixels gave a thumbnail of height 0, an error."""
    flat = Image(np.zeros((2, 3000, 3), np.uint8))

    uploads = asyncio.run(upload(flat, None, UploadImageParams(), context(store=store)))

    assert [(one.width, one.height) for one in uploads.files] == [(3000, 2), (256, 1), (512, 1)]


def test_15_the_photo_itself_is_never_written_again(store: MemoryStore) -> None:
    """Defect 15: storing the original over itself announced a new object: an endless loop."""
    ctx = context(store=store, source_url="gs://photos/acme/originals/photo.jpg")

    uploads = asyncio.run(upload(TRAY, None, UploadImageParams(dest_prefix="originals"), ctx))

    assert "originals/photo.jpg" not in store.files
    assert uploads.files[0].url == ctx.job.source_url


def test_17_a_parameter_called_name_is_a_parameter_like_any_other() -> None:
    """Defect 17: kwargs named `name` crashed the parser."""
    assert UploadImageParams.model_validate({"name": "{image_id}"}).name == "{image_id}"
    for step in load_steps(plugins=False):
        if "name" not in step.params.model_fields:
            with pytest.raises(ValidationError, match="Extra inputs"):
                step.params.model_validate({"name": "x"})


def test_17_species_do_not_follow_confidence() -> None:
    """Defect 17: species took turns over detections sorted by score, so each had its own confidence."""
    # The left column is seen well, the right one badly; both species stand in both.
    boxes = [(x, y, x + 20, y + 20) for y in range(0, 200, 40) for x in (0, 50)]
    score = [0.9 if i % 2 == 0 else 0.5 for i in range(10)]
    by_score = detections_of(boxes, score=score).take(np.argsort(-np.array(score), kind="stable"))
    params = SpeciesDistributorParams(species=("rosa", "aloe", "tuna"))

    of = distribute(by_score, None, params)
    species = dict(zip(of.detection.tolist(), of.species.tolist(), strict=True))

    assert [species[i + 1] for i in range(10)] == ["rosa", "aloe", "tuna"] * 3 + ["rosa"]


def test_17_estimated_plants_have_species_too() -> None:
    """Defect 17: estimations were ignored by the distribution."""
    found = detections_of([(0, 0, 10, 10)] * 3)

    of = distribute(found, estimates(5), SpeciesDistributorParams(species=("rosa", "aloe")))

    assert len(of) == 8
    assert sorted(of.species.tolist()).count("rosa") == 4


def test_a_segment_is_given_no_other_segments_detections() -> None:
    """The coordinator gave every segment all detections, so counts were multiplied."""
    segments = segments_of(("cajon", (100, 50, 300, 250)), ("cajon", (0, 0, 90, 90)))

    found = asyncio.run(detect(TRAY, segments, None, DetectionParams(segment_type="cajon"), context()))
    totals, counts = count(TRAY, found, segments, None, CountParams())

    assert totals.total_count == 3
    assert counts.count.tolist() == [3, 0]
