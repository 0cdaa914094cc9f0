"""The gallery shows what was found, and stays one page that fetches nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from uuid import uuid4

from consumer.local.gallery import Shown, gallery_page
from contracts.geometry import Box
from contracts.result import Classification, Estimation, ImageInfo, ProcessingResult, Segment

NOW = datetime(2025, 1, 1, tzinfo=UTC)
NUMBERS = {"total_count": 12, "size_S": 1, "size_M": 9, "size_L": 2, "size_XL": 0, "species_rosa & co": 12}
RESULT = ProcessingResult(
    result_id="r",
    tenant_id="acme",
    session_id=uuid4(),
    image_id=uuid4(),
    image_url="gs://b/acme/originals/1.jpg",
    status="succeeded",
    image=ImageInfo(width=640, height=480, orientation_applied=False),
    segments=tuple(
        Segment(index=i, label=label, confidence=0.9, box=Box(x1=0, y1=0, x2=9, y2=9), area_px=81)
        for i, label in enumerate(("cajon", "cajon", "segmento"))
    ),
    estimations=tuple(Estimation(type=name, value=value) for name, value in NUMBERS.items()),
    classifications=tuple(
        Classification(detection=0, label=label, confidence=0.9) for label in ("grass", "rosa & co", "grass")
    ),
    worker_version="1",
    started_at=NOW,
    finished_at=NOW,
)
GOOD = Shown(
    source="photos/demo-01.jpg",
    tenant_id="acme",
    trigger="message",
    status="succeeded",
    reason="",
    milliseconds=345,
    expected=12,
    result=RESULT,
    picture="annotated/demo-01.jpg",
    thumbnail="annotated/demo-01-small.jpg",
    result_file="results/demo-01.json",
)
BAD = replace(
    GOOD,
    source="<b>.jpg",
    status="failed",
    reason="unreadable_image: found text",
    result=None,
    expected=None,
    picture=None,
    thumbnail=None,
)


class Text(HTMLParser):
    """What a reader sees, and what a browser opens or loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link"):
            self._open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_a_card_tells_counts_sizes_species_segments_and_how_it_went() -> None:
    text = Text(gallery_page([GOOD], 1.25)).text

    for expected in (
        "photos/demo-01.jpg",
        "12 plants 12 expected",
        "S 1 M 9 L 2 XL 0",
        "species rosa & co 12",
        "looks like grass 2 segments",
        "segments cajon 2 segmento 1",
        "succeeded acme by message 345 ms JSON",
    ):
        assert expected in text


def test_a_failed_photo_has_its_reason_and_no_picture() -> None:
    page = Text(gallery_page([BAD], 1.0))

    assert "<b>.jpg" in page.text
    assert "unreadable_image: found text" in page.text
    assert page.links == ["results/demo-01.json"]


def test_pictures_open_large_and_nothing_comes_from_elsewhere() -> None:
    page = gallery_page([GOOD], 1.0)

    assert Text(page).links == [
        "annotated/demo-01.jpg",
        "annotated/demo-01-small.jpg",
        "results/demo-01.json",
    ]
    assert not re.search(r"https?:|url\(|@import|<script", page)


def test_the_head_adds_up_and_counts_failures() -> None:
    text = Text(gallery_page([GOOD, replace(GOOD, expected=13), BAD], 2.0)).text

    assert "photos 3 plants counted 24 plants expected 25 counts exact 1 of 2" in text
    assert "failed 1" in text


def test_a_count_far_off_is_marked() -> None:
    assert 'class="near"' in gallery_page([replace(GOOD, expected=13)], 1.0)
    assert 'class="far"' in gallery_page([replace(GOOD, expected=20)], 1.0)
