from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import report
from benchmarks.method import Curve, Figure, Row, Target
from benchmarks.questions import QUESTIONS

MET = Row("d", "small SAM at 1 MP: times as fast as stock", Figure(4, 3.5, 4.2), Target(least=2.5))
MISSED = Row("e", "12 MP in tiles: times as fast as SAHI", Figure(1.5, 1.4, 1.7), Target(least=1.6))
SLOPE = Row(
    "i",
    "boxes that are merged: the cost of each box at 100 times the work ÷ at first",
    Figure(0.7, 0.6, 0.8),
    Target(most=1.1),
    curve=Curve("boxes", "CPU time of each box, µs", {"measured": [(1e3, 6.0), (1e4, 3.0), (1e5, 4.0)]}),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def put(folder: Path, *rows: Row, **changes: Any) -> None:
    said = [{**row.as_json(), **changes} for row in rows]
    (folder / f"{rows[0].id}-some.json").write_text(json.dumps(said))


def page(folder: Path) -> str:
    return report.written(folder, folder)[report.PAGE]


def test_the_page_and_its_pictures_are_what_the_results_say() -> None:
    for file, text in report.written().items():
        assert file.read_text() == text, f"{file.name}: run python -m benchmarks.report"
    assert set(report.PICTURES.glob("benchmark-*.svg")) <= set(report.written())


def test_every_missed_target_is_explained() -> None:
    assert report.unexplained() == []


def test_nothing_was_measured_on_a_busy_machine() -> None:
    assert [
        row["metric"] for rows in report.read(report.RESULTS).values() for row in rows if row["busy"]
    ] == []


def test_a_question_that_nobody_answered_yet_says_so(folder: Path) -> None:
    assert page(folder).count("Not measured yet.") == len(QUESTIONS)


def test_a_figure_stands_beside_its_interval_its_target_and_whether_it_is_met(folder: Path) -> None:
    put(folder, MET)
    assert f"| {MET.metric} | 4 [3.5, 4.2] | ≥ 2.5 | yes |" in page(folder)


def test_a_target_counts_as_met_only_if_the_worse_end_of_the_interval_meets_it(folder: Path) -> None:
    put(folder, MISSED)
    assert f"| {MISSED.metric} | 1.5 [1.4, 1.7] | ≥ 1.6 | **no** |" in page(folder)


def test_a_missed_target_stands_beside_its_explanation(folder: Path) -> None:
    put(folder, MISSED)
    assert report.unexplained(folder, folder) == [f"e: {MISSED.metric}"]
    (folder / "e.md").write_text("The profile shows that ...\n")
    assert report.unexplained(folder, folder) == [f"e: {MISSED.metric}"]
    (folder / "e.md").write_text(f"{MISSED.metric}: the profile shows that ...\n")
    assert report.unexplained(folder, folder) == []
    assert "the profile shows that ..." in page(folder)


def test_an_explanation_in_which_something_is_still_missing_explains_nothing(folder: Path) -> None:
    put(folder, MISSED)
    (folder / "e.md").write_text(f"{MISSED.metric}: <!-- fill in: its share of the profile -->\n")
    assert report.unexplained(folder, folder) == [f"e: {MISSED.metric}"]


def test_what_nothing_misses_needs_no_explanation_and_shows_none(folder: Path) -> None:
    put(folder, MET)
    (folder / "d.md").write_text("The profile shows that ...\n")
    assert "The profile shows that ..." not in page(folder)
    assert report.superfluous(folder, folder) == ["d.md"]


def test_versions_of_the_peers_that_are_not_ours_stand_beside_ours() -> None:
    row = replace(MET, peer_versions={"torch": "0", "celery": "5.7.0"})
    versions: Any = row.as_json()["versions"]
    assert versions["torch"] == version("torch")
    assert (versions["torch of the peers"], versions["celery"]) == ("0", "5.7.0")


def test_figures_from_a_busy_machine_are_marked(folder: Path) -> None:
    put(folder, MET, busy=True)
    assert "**while others used the machine**" in page(folder)


def test_every_picture_is_an_svg_that_the_page_shows(folder: Path) -> None:
    for row in (MET, MISSED, SLOPE):
        put(folder, row)
    files = report.written(folder, folder)
    shown = set(re.findall(r"\]\(images/(.+\.svg)\)", files[report.PAGE]))
    drawn = {file.name: text for file, text in files.items() if file != report.PAGE}
    assert set(drawn) == shown
    assert len(drawn) == 3
    for text in drawn.values():
        assert ET.fromstring(text).tag.endswith("svg")


def test_what_may_not_happen_at_all_stands_in_the_table_and_not_in_the_picture(folder: Path) -> None:
    put(folder, MISSED, Row("e", "messages lost", Figure(2, 2, 2), Target(most=0)))
    (text,) = [text for file, text in report.written(folder, folder).items() if file.suffix == ".svg"]
    assert "messages lost" in page(folder)
    assert "messages lost" not in text


def test_what_is_drawn_lies_inside_the_picture(folder: Path) -> None:
    put(folder, SLOPE)
    (text,) = [text for file, text in report.written(folder, folder).items() if file.suffix == ".svg"]
    drawing = ET.fromstring(text)
    width, height = float(drawing.attrib["width"]), float(drawing.attrib["height"])
    circles = [one.attrib for one in drawing.iter() if one.tag.endswith("circle")]
    assert len(circles) == 3
    assert all(0 <= float(one["cx"]) <= width and 0 <= float(one["cy"]) <= height for one in circles)
