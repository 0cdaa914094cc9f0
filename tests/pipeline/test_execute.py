"""What a pipeline writes when it runs, in which order, and what becomes of failures."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest

from consumer.pipeline.execute import execute
from consumer.pipeline.run import Run
from contracts.builders import chain, chord, group, map_, pipeline, step
from contracts.failure import FailureClass
from contracts.pipeline import GroupDefinition, StepDefinition
from pipeline_steps.artifact import Artifacts
from pipeline_steps.artifacts import (
    Classifications,
    Crops,
    Detections,
    Image,
    Overlay,
    Segments,
    Sizes,
    Totals,
    Uploads,
)
from pipeline_steps.context import Deadline, JobInfo, TenantStore
from pipeline_steps.models import Models
from tests.pipeline.toys import PICTURE, Toys

SOON = 0.05
"""Seconds until a time-out that the test waits for."""


@pytest.fixture
def toys() -> Toys:
    return Toys()


def labels(written: Artifacts) -> list[str]:
    found = written.get(Detections)
    return [] if found is None else [str(label) for label in found.label]


def files(written: Artifacts) -> list[str]:
    return [file.url.removeprefix("gs://bucket/") for file in (written.get(Uploads) or Uploads()).files]


class TestChains:
    def test_elements_run_in_order(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=2), chain(step("sizes"), chain(step("total"))), step("classify"))

        assert list(ran.statuses) == ["steps.0", "steps.1.steps.0", "steps.1.steps.1.steps.0", "steps.2"]
        assert set(ran.statuses.values()) == {"succeeded"}

    def test_a_later_write_replaces_an_earlier_one(self, toys: Toys) -> None:
        ran = toys.execute(step("find", label="early"), step("find", label="late", n=1))

        assert labels(ran.written) == ["late"]

    def test_a_later_upload_is_added_to_the_earlier_ones(self, toys: Toys) -> None:
        ran = toys.execute(
            step("upload", name="a"), chain(step("upload", name="b")), step("upload", name="a")
        )

        assert files(ran.written) == ["images/a", "images/b"]

    def test_only_what_was_written_is_returned_and_not_what_was_given(self, toys: Toys) -> None:
        assert toys.execute(step("find")).written.kinds() == {Detections}

    def test_no_steps_write_nothing(self, toys: Toys) -> None:
        assert toys.execute().written == Artifacts()
        assert toys.execute(chain(), group(), chord(group())).written.kinds() == frozenset()

    def test_a_sink_writes_nothing(self, toys: Toys) -> None:
        ran = toys.execute(step("find"), step("sizes"), step("needs_sizes"))

        assert ran.written.kinds() == {Detections, Sizes}
        assert toys.calls[-1] == "sizes of 3"

    def test_kwargs_of_one_step_never_reach_the_next(self, toys: Toys) -> None:
        ran = toys.execute(step("upload", folder="originals"), step("upload", name="other"), step("upload"))

        assert files(ran.written) == ["originals/photo", "images/other", "images/photo"]

    def test_what_speaks_of_replaced_things_is_dropped_and_counted(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=4), step("sizes"), step("find", n=2))

        assert len(ran.written.get(Sizes) or ()) == 0
        assert ran.written.stale == 4

    def test_what_a_filter_keeps_keeps_what_is_said_of_it(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=4), step("sizes"), step("thin", keep=3))

        sizes, found = ran.written.get(Sizes), ran.written.get(Detections)
        assert sizes is not None
        assert found is not None
        assert sizes.detection.tolist() == found.id.tolist()
        assert sizes.size.tolist() == [1, 2, 3]
        assert ran.written.stale == 1


class TestGroups:
    def test_what_branches_wrote_is_joined_in_declared_order_whatever_finishes_first(
        self, toys: Toys
    ) -> None:
        last_first = group(
            step("gate", wait_for="b", then_open="a"),
            step("gate", wait_for="c", then_open="b"),
            step("gate", then_open="c"),
        )

        ran = toys.execute(last_first)

        assert labels(ran.written) == ["after b", "after c", "after nothing"]
        assert [report.path for report in ran.run.steps] == [
            "steps.0.steps.2",
            "steps.0.steps.1",
            "steps.0.steps.0",
        ]

    def test_branches_run_at_the_same_time(self, toys: Toys) -> None:
        # Each waits for the other: one after the other they would wait forever.
        ran = toys.execute(
            group(
                chain(step("gate", then_open="a"), step("gate", wait_for="b")),
                chain(step("gate", then_open="b"), step("gate", wait_for="a")),
            )
        )

        assert labels(ran.written) == ["after b", "after a"]

    def test_a_group_does_not_repeat_what_was_there_before(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=3), group(step("classify"), step("sizes"), step("upload")))

        assert len(ran.written.get(Detections) or ()) == 3

    def test_a_groups_detections_replace_the_earlier_ones(self, toys: Toys) -> None:
        ran = toys.execute(step("find", label="early"), group(step("find", n=1), step("find", n=2)))

        assert labels(ran.written) == ["plant"] * 3

    @pytest.mark.parametrize("empty", [group(), chord(group()), group(chain()), group(step("upload"))])
    def test_a_group_that_finds_nothing_erases_nothing(self, toys: Toys, empty: GroupDefinition) -> None:
        ran = toys.execute(step("regions"), step("find", n=3), empty)

        assert len(ran.written.get(Detections) or ()) == 3
        assert len(ran.written.get(Segments) or ()) == 2

    def test_a_later_branch_does_not_bring_back_what_it_saw_before(self, toys: Toys) -> None:
        ran = toys.execute(step("find", label="early"), group(step("find", label="fresh"), step("upload")))

        assert labels(ran.written) == ["fresh"] * 3

    def test_segments_and_crops_made_in_a_branch_are_kept(self, toys: Toys) -> None:
        ran = toys.execute(group(chain(step("regions", n=3), step("keep", keep=2)), step("upload")))

        assert len(ran.written.get(Segments) or ()) == 2
        assert len(ran.written.get(Crops) or ()) == 2

    def test_a_thing_that_two_branches_keep_is_there_once(self, toys: Toys) -> None:
        ran = toys.execute(
            step("find", n=4), step("sizes"), group(step("thin", keep=3), step("thin", keep=2), step("sizes"))
        )

        found, sizes = ran.written.get(Detections), ran.written.get(Sizes)
        assert found is not None
        assert sizes is not None
        assert found.id.tolist() == sizes.detection.tolist()
        assert sizes.size.tolist() == [1, 2, 3]

    def test_a_chords_callback_reads_what_all_branches_found(self, toys: Toys) -> None:
        ran = toys.execute(
            step("find", n=9), chord(group(step("find", n=2), step("find", n=3)), step("total"))
        )

        assert toys.calls[-1] == "total of 5"
        assert ran.written.get(Totals) is not None


class TestMaps:
    def test_a_body_runs_once_per_item_on_the_items_own_picture(self, toys: Toys) -> None:
        ran = toys.execute(step("regions", n=4), map_("segments", step("find", n=1)))

        found = ran.written.get(Detections)
        assert found is not None
        assert found.xyxy[:, 0].tolist() == [0, 20, 40, 60]

    def test_an_items_path_tells_its_number(self, toys: Toys) -> None:
        ran = toys.execute(
            step("regions", n=2), step("upload"), map_("segments", chain(step("find"), step("classify")))
        )

        assert sorted(ran.statuses)[2:] == [
            "steps.2.map[0].body.steps.0",
            "steps.2.map[0].body.steps.1",
            "steps.2.map[1].body.steps.0",
            "steps.2.map[1].body.steps.1",
        ]

    def test_paths_of_nested_maps_tell_every_number(self, toys: Toys) -> None:
        inner = map_("detections", chord(group(step("classify")), step("upload", name="{item}")))
        body = chain(step("find", n=2), inner)

        ran = toys.execute(step("regions", n=2), group(map_("segments", body)))

        assert "steps.1.steps.0.map[1].body.steps.0" in ran.statuses
        assert "steps.1.steps.0.map[1].body.steps.1.map[0].body.group.steps.0" in ran.statuses
        assert "steps.1.steps.0.map[0].body.steps.1.map[1].body.callback" in ran.statuses
        assert files(ran.written) == ["images/0-0", "images/0-1", "images/1-0", "images/1-1"]

    def test_results_are_in_the_items_order_whatever_finishes_first(self, toys: Toys) -> None:
        ran = toys.execute(step("regions", n=4), map_("segments", step("last_first"), max_concurrency=4))

        assert [report.path for report in ran.run.steps][1:] == [
            f"steps.1.map[{i}].body" for i in (3, 2, 1, 0)
        ]
        assert labels(ran.written) == ["item 0", "item 1", "item 2", "item 3"]

    @pytest.mark.parametrize("concurrency", [1, 2, 5])
    def test_so_many_items_at_a_time_and_no_more(self, toys: Toys, concurrency: int) -> None:
        toys.execute(step("regions", n=10), map_("segments", step("gate"), max_concurrency=concurrency))

        assert toys.most_running == concurrency
        assert toys.running == 0

    def test_every_item_runs_also_when_there_are_more_than_run_at_a_time(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=50), map_("detections", step("find", n=1), max_concurrency=3))

        assert len(ran.written.get(Detections) or ()) == 50
        assert len(set(toys.calls)) == 51

    def test_no_items_are_a_success_that_writes_no_rows(self, toys: Toys) -> None:
        body = chain(step("find"), step("sizes"), step("upload", name="{item}"))

        ran = toys.execute(step("regions", n=0), map_("segments", body), step("total"))

        assert ran.run.is_partial is False
        assert toys.calls == ["total of 0"]
        assert ran.written.kinds() == {Segments, Detections, Sizes, Uploads, Totals}
        assert ran.written.get(Detections) == Detections.none()
        assert ran.written.get(Uploads) == Uploads()

    def test_no_items_replace_what_was_found_before(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=3), step("regions", n=0), map_("segments", step("find")))

        assert len(ran.written.get(Detections) or ()) == 0

    def test_crops_are_shown_as_they_were_cut(self, toys: Toys) -> None:
        ran = toys.execute(step("regions", n=4), step("keep", keep=3), map_("crops", step("classify")))

        said = ran.written.get(Classifications)
        assert said is not None
        assert len(said) == 9  # three segments named by each of three bodies
        assert sorted(set(said.label.tolist())) == ["at 0", "at 20", "at 40"]

    def test_after_a_map_the_picture_is_the_whole_one_again(self, toys: Toys) -> None:
        ran = toys.execute(step("regions", n=2), map_("segments", step("find", n=1)), step("draw"))

        overlay = ran.written.get(Overlay)
        assert overlay is not None
        assert overlay.pixels.shape == PICTURE.pixels.shape
        assert ran.written.get(Image) is None

    def test_ten_thousand_items_are_taken(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=10_000), step("sizes"), map_("detections", step("release")))

        assert ran.error is None
        assert len(ran.run.steps) == 10_002

    def test_one_more_is_too_many(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=10_001), map_("detections", step("release"), on_error="skip"))

        assert ran.error is not None
        assert (ran.error.path, ran.error.code) == ("steps.1", "invalid_input")
        assert "10001 items; a map takes at most 10000" in str(ran.error)

    def test_a_map_over_what_was_skipped_is_not_run_and_writes_nothing(self, toys: Toys) -> None:
        ran = toys.execute(
            step("fail", on_error="skip"), map_("detections", step("classify")), step("upload")
        )

        assert ran.statuses == {"steps.0": "skipped", "steps.1": "not_run", "steps.2": "succeeded"}
        assert ran.written.kinds() == {Uploads}
        assert ran.run.is_partial


class TestFailures:
    def test_a_failure_names_its_step_its_cause_and_its_class(self, toys: Toys) -> None:
        ran = toys.execute(step("find"), group(chain(step("fail", error="permanent"))), step("upload"))

        assert ran.error is not None
        assert str(ran.error) == "steps.1.steps.0.steps.0 (fail): the photo is to blame"
        assert (ran.error.path, ran.error.name, ran.error.code) == (
            "steps.1.steps.0.steps.0",
            "fail",
            "invalid_input",
        )
        assert ran.error.failure_class is FailureClass.PERMANENT
        assert ran.error.__cause__ is ran.error.cause
        assert ran.statuses == {"steps.0": "succeeded", "steps.1.steps.0.steps.0": "failed"}

    def test_an_error_nobody_foresaw_is_internal(self, toys: Toys) -> None:
        ran = toys.execute(step("fail", error="internal"))

        assert ran.error is not None
        assert (ran.error.code, ran.error.failure_class) == ("internal_error", FailureClass.INTERNAL)

    def test_a_failure_inside_a_map_names_the_item(self, toys: Toys) -> None:
        ran = toys.execute(step("regions", n=5), map_("segments", chain(step("fail", items=[3]))))

        assert ran.error is not None
        assert ran.error.path == "steps.1.map[3].body.steps.0"

    def test_a_failing_branch_cancels_its_siblings(self, toys: Toys) -> None:
        ran = toys.execute(
            group(step("gate", wait_for="never"), step("fail"), step("gate", wait_for="never"))
        )

        assert ran.error is not None
        assert ran.error.path == "steps.0.steps.1"
        assert sorted(toys.cancelled) == ["steps.0.steps.0", "steps.0.steps.2"]

    def test_items_not_yet_begun_never_begin_after_a_failure(self, toys: Toys) -> None:
        ran = toys.execute(step("regions", n=9), map_("segments", step("fail", items=[1]), max_concurrency=1))

        assert ran.error is not None
        assert toys.calls == ["steps.1.map[0].body", "steps.1.map[1].body"]

    def test_a_failure_deep_inside_groups_is_still_that_failure(self, toys: Toys) -> None:
        deep = group(group(group(step("fail", error="superseded"), step("gate", wait_for="never"))))

        ran = toys.execute(deep)

        assert ran.error is not None
        assert (ran.error.path, ran.error.code) == ("steps.0.steps.0.steps.0.steps.0", "superseded")
        assert toys.cancelled == ["steps.0.steps.0.steps.0.steps.1"]

    def test_a_step_that_returns_something_else_is_told_what_it_declared(self, toys: Toys) -> None:
        ran = toys.execute(step("lie"))

        assert ran.error is not None
        assert ran.error.failure_class is FailureClass.INTERNAL
        assert str(ran.error).endswith("declares that it writes Detections, but returned Overlay")

    def test_a_step_that_returns_too_little_is_told_so(self, toys: Toys) -> None:
        ran = toys.execute(step("silent"))

        assert ran.error is not None
        assert str(ran.error).endswith("declares that it writes Detections, Sizes, but returned Detections")


class TestSkipping:
    def test_a_skipped_step_is_recorded_and_the_rest_runs(self, toys: Toys) -> None:
        ran = toys.execute(step("fail", on_error="skip"), step("upload"))

        assert ran.error is None
        assert ran.run.is_partial
        assert ran.statuses == {"steps.0": "skipped", "steps.1": "succeeded"}
        assert ran.skipped == {"steps.0": "invalid_input: steps.0 (fail): the photo is to blame"}
        assert files(ran.written) == ["images/photo"]

    def test_without_skip_nothing_is_swallowed(self, toys: Toys) -> None:
        ran = toys.execute(step("fail"), step("upload"))

        assert ran.error is not None
        assert ran.written == Artifacts()

    def test_who_needs_a_skipped_output_is_not_run(self, toys: Toys) -> None:
        ran = toys.execute(
            step("fail", on_error="skip"), step("sizes"), step("needs_sizes"), step("classify")
        )

        assert ran.statuses == {
            "steps.0": "skipped",
            "steps.1": "not_run",
            "steps.2": "not_run",
            "steps.3": "succeeded",  # it can do without
        }
        assert "sizes of" not in "".join(toys.calls)

    def test_a_skipped_step_leaves_the_earlier_result_in_place(self, toys: Toys) -> None:
        ran = toys.execute(step("find", n=2), step("fail", on_error="skip"), step("total"))

        assert toys.calls[-1] == "total of 2"
        assert ran.run.is_partial

    def test_a_group_may_lose_branches(self, toys: Toys) -> None:
        ran = toys.execute(
            group(step("find", label="a"), chain(step("upload"), step("fail")), step("find"), on_error="skip")
        )

        assert ran.error is None
        assert labels(ran.written) == ["a"] * 3 + ["plant"] * 3
        assert ran.skipped == {
            "steps.0.steps.1.steps.1": "invalid_input: steps.0.steps.1.steps.1 (fail): the photo is to blame"
        }
        assert files(ran.written) == []  # what a lost branch wrote before is lost with it
        assert ran.run.is_partial

    def test_a_chords_callback_runs_on_what_succeeded(self, toys: Toys) -> None:
        lossy = group(step("find", n=4), step("fail"), on_error="skip")

        ran = toys.execute(chord(lossy, step("total")))

        assert toys.calls[-1] == "total of 4"
        assert ran.statuses["steps.0.callback"] == "succeeded"

    def test_a_chords_callback_with_nothing_to_read_is_not_run(self, toys: Toys) -> None:
        ran = toys.execute(chord(group(step("fail"), step("fail"), on_error="skip"), step("total")))

        assert ran.error is None
        assert ran.statuses["steps.0.callback"] == "not_run"

    @pytest.mark.parametrize(
        ("failing", "min_success", "fails"), [(2, 0.5, False), (3, 0.5, True), (1, 1.0, True)]
    )
    def test_a_group_fails_when_too_few_branches_succeed(
        self, toys: Toys, failing: int, min_success: float, fails: bool
    ) -> None:
        branches = [step("fail")] * failing + [step("find")] * (4 - failing)

        ran = toys.execute(group(*branches, on_error="skip", min_success=min_success))

        assert (ran.error is not None) == fails

    @pytest.mark.parametrize(
        ("error", "code", "failure_class"),
        [
            ("permanent", "invalid_input", FailureClass.PERMANENT),
            ("transient", "device_overloaded", FailureClass.TRANSIENT),
            ("internal", "internal_error", FailureClass.INTERNAL),
        ],
    )
    def test_too_few_successes_fail_for_the_reason_of_the_first_failure(
        self, toys: Toys, error: str, code: str, failure_class: FailureClass
    ) -> None:
        ran = toys.execute(
            step("upload"), group(step("fail", error=error), step("find"), on_error="skip", min_success=1)
        )

        assert ran.error is not None
        assert ran.error.path == "steps.1"
        assert (ran.error.code, ran.error.failure_class) == (code, failure_class)
        assert "1 of 2 succeeded, min_success is 1" in str(ran.error)
        assert "steps.1.steps.0 (fail)" in str(ran.error)

    def test_too_few_successes_inside_a_map_name_the_item(self, toys: Toys) -> None:
        body = group(step("fail", items=[1]), on_error="skip", min_success=1)

        ran = toys.execute(step("regions", n=3), map_("segments", body))

        assert ran.error is not None
        assert ran.error.path == "steps.1.map[1].body"

    def test_a_map_may_lose_items_and_says_which(self, toys: Toys) -> None:
        ran = toys.execute(
            step("regions", n=5), map_("segments", step("fail", items=[1, 3]), on_error="skip"), step("total")
        )

        assert ran.error is None
        assert toys.calls[-1] == "total of 3"
        assert [(skip.path, skip.item) for skip in ran.run.skipped] == [
            ("steps.1.map[1].body", "1"),
            ("steps.1.map[3].body", "3"),
        ]

    @pytest.mark.parametrize(("min_success", "fails"), [(0.6, False), (0.61, True)])
    def test_a_map_fails_when_too_few_items_succeed(
        self, toys: Toys, min_success: float, fails: bool
    ) -> None:
        lossy = map_("segments", step("fail", items=[1, 3]), on_error="skip", min_success=min_success)

        ran = toys.execute(step("regions", n=5), lossy)

        assert (ran.error is not None) == fails
        assert ran.error is None or ran.error.path == "steps.1"

    def test_what_too_few_branches_survived_may_itself_be_skipped(self, toys: Toys) -> None:
        inner = group(step("fail"), on_error="skip", min_success=1)

        ran = toys.execute(group(inner, step("find"), on_error="skip"))

        assert ran.error is None
        assert labels(ran.written) == ["plant"] * 3

    @pytest.mark.parametrize("error", ["store", "configuration", "superseded"])
    def test_trouble_that_is_everybodys_is_not_skipped(self, toys: Toys, error: str) -> None:
        skipping = step("fail", error=error, on_error="skip")

        for definition in (
            skipping,
            group(skipping, on_error="skip"),
            group(group(step("fail", error=error), on_error="skip", min_success=1), on_error="skip"),
        ):
            ran = Toys().execute(definition)
            assert ran.error is not None
            assert ran.error.code != "internal_error"

    @pytest.mark.parametrize("error", ["permanent", "transient", "internal"])
    def test_trouble_with_the_photo_or_the_step_is(self, toys: Toys, error: str) -> None:
        assert toys.execute(step("fail", error=error, on_error="skip")).error is None


class TestRetries:
    @pytest.mark.parametrize("error", ["transient", "internal", "store"])
    @pytest.mark.parametrize("name", ["fail", "fail_in_thread"])
    def test_what_may_pass_is_tried_again(self, toys: Toys, name: str, error: str) -> None:
        ran = toys.execute(step(name, retries=1, error=error, times=1, n=2))

        assert ran.error is None
        assert toys.calls == ["steps.0", "steps.0"]
        assert len(ran.written.get(Detections) or ()) == 2
        assert ran.statuses == {"steps.0": "succeeded"}

    @pytest.mark.parametrize("error", ["permanent", "configuration", "superseded"])
    def test_what_will_not_pass_is_not(self, toys: Toys, error: str) -> None:
        ran = toys.execute(step("fail", retries=5, error=error))

        assert ran.error is not None
        assert toys.calls == ["steps.0"]

    def test_after_the_last_retry_it_fails(self, toys: Toys) -> None:
        ran = toys.execute(step("fail", retries=1, error="transient"))

        assert ran.error is not None
        assert ran.error.failure_class is FailureClass.TRANSIENT
        assert toys.calls == ["steps.0"] * 2

    def test_a_retry_writes_things_of_the_same_identity(self, toys: Toys) -> None:
        retried = toys.execute(step("fail", retries=1, error="transient", times=1)).written.get(Detections)
        at_once = Toys().execute(step("fail", retries=1, times=0)).written.get(Detections)

        assert retried == at_once

    @pytest.mark.parametrize("busy_first", [True, False])
    def test_a_siblings_thread_at_work_is_no_reason_not_to_try_again(
        self, toys: Toys, busy_first: bool
    ) -> None:
        retried = chain(step("fail_in_thread", retries=1, error="transient", times=1), step("release"))
        branches = [step("busy_in_thread"), retried]

        ran = toys.execute(group(*(branches if busy_first else branches[::-1])))

        assert ran.error is None
        assert len(toys.calls) == 3


class TestTime:
    def test_an_async_step_is_cancelled_at_its_timeout(self, toys: Toys) -> None:
        ran = toys.execute(step("gate", wait_for="never", timeout_s=SOON))

        assert ran.error is not None
        assert ran.error.code == "pipeline_timeout"
        assert f"not done within its timeout_s of {SOON} s" in str(ran.error)
        assert toys.cancelled == ["steps.0"]
        assert ran.lingering == 0

    def test_a_timeout_may_be_tried_again(self, toys: Toys) -> None:
        ran = toys.execute(step("gate", wait_for="never", timeout_s=SOON, retries=1))

        assert ran.error is not None
        assert toys.calls == ["steps.0"] * 2

    def test_a_timeout_may_be_skipped(self, toys: Toys) -> None:
        ran = toys.execute(step("gate", wait_for="never", timeout_s=SOON, on_error="skip"), step("upload"))

        assert ran.error is None
        assert ran.statuses == {"steps.0": "skipped", "steps.1": "succeeded"}

    def test_a_thread_past_its_timeout_lingers_and_is_not_tried_again_beside_itself(self, toys: Toys) -> None:
        ran = toys.execute(step("hang_in_thread", timeout_s=SOON, retries=3))

        assert ran.error is not None
        assert ran.error.code == "pipeline_timeout"
        assert toys.calls == ["steps.0"]
        assert ran.lingering == 1
        assert ran.run.lingering == frozenset()  # it returned afterwards

    def test_a_cancelled_siblings_thread_lingers(self, toys: Toys) -> None:
        ran = toys.execute(group(step("hang_in_thread"), step("fail_in_thread")))

        assert ran.error is not None
        assert ran.error.path == "steps.0.steps.1"
        assert ran.lingering == 1

    def test_threads_that_returned_do_not_linger(self, toys: Toys) -> None:
        ran = toys.execute(step("draw"), step("find"), step("thin"))

        assert ran.lingering == 0

    def test_a_step_under_its_timeout_is_left_alone(self, toys: Toys) -> None:
        assert toys.execute(step("find", timeout_s=30), step("draw", timeout_s=30)).error is None

    def test_the_whole_pipelines_time_ends_it(self, toys: Toys) -> None:
        ran = toys.execute(step("gate", wait_for="never"), seconds=SOON)

        assert ran.error is not None
        assert ran.error.code == "pipeline_timeout"
        assert "PIPELINE_TIMEOUT" in str(ran.error)

    def test_a_steps_longer_timeout_does_not_outlast_the_pipelines(self, toys: Toys) -> None:
        ran = toys.execute(step("gate", wait_for="never", timeout_s=100), seconds=SOON)

        assert ran.error is not None
        assert "PIPELINE_TIMEOUT" in str(ran.error)

    @pytest.mark.parametrize(
        "definition",
        [
            step("gate", wait_for="never", on_error="skip", retries=2),
            group(step("gate", wait_for="never"), on_error="skip"),
            chain(step("regions"), map_("segments", step("gate", wait_for="never"), on_error="skip")),
        ],
        ids=["step", "group", "map"],
    )
    def test_the_end_of_the_whole_time_is_nothing_to_skip(
        self, toys: Toys, definition: StepDefinition
    ) -> None:
        ran = toys.execute(definition, seconds=SOON)

        assert ran.error is not None
        assert ran.error.code == "pipeline_timeout"

    def test_nothing_is_begun_once_the_time_is_over(self, toys: Toys) -> None:
        ran = toys.execute(step("find"), seconds=0)

        assert ran.error is not None
        assert toys.calls == []

    def test_a_steps_own_time_out_of_something_smaller_is_its_own_error(self, toys: Toys) -> None:
        ran = toys.execute(step("slow_call", timeout_s=30))

        assert ran.error is not None
        assert (ran.error.code, type(ran.error.cause)) == ("internal_error", TimeoutError)


class TestCancellation:
    def test_a_run_that_is_cancelled_from_outside_stops_where_it_is(self, toys: Toys) -> None:
        parsed = toys.parse(group(step("gate", wait_for="never"), step("gate", wait_for="never")))

        async def cancelled_at_work() -> None:
            with ThreadPoolExecutor(1) as threads:
                services = (cast(Models, None), cast(TenantStore, None), Deadline.after(60), threads)
                run = Run(JobInfo("acme", "s", "i"), *services)
                task = asyncio.create_task(execute(parsed.root, Artifacts.of(PICTURE), run))
                await toys.event("2 at work").wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(cancelled_at_work())
        assert sorted(toys.cancelled) == ["steps.0.steps.0", "steps.0.steps.1"]


def test_things_have_identities_of_their_own_wherever_they_were_written(toys: Toys) -> None:
    finders = group(*[step("find", n=5)] * 3)
    body = chain(step("find", n=3), map_("detections", finders))

    ran = toys.execute(step("regions", n=4), map_("segments", body), step("regions", n=2))

    found = ran.written.get(Detections)
    assert found is not None
    assert len(found) == 4 * 3 * 3 * 5
    assert len(np.unique(found.id)) == len(found)
    assert (found.id > 0).all()


def test_a_run_writes_the_same_every_time(toys: Toys) -> None:
    definition = pipeline(
        step("regions", n=3), map_("segments", chain(step("find"), step("sizes"))), group(step("classify"))
    )

    first, second = (Toys().execute_definition(definition).written for _ in range(2))

    assert first.kinds() == second.kinds()
    assert all(first.get(kind) == second.get(kind) for kind in first.kinds())
