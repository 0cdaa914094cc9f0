"""Everything that is wrong with a pipeline, at once and each with its place, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.pipeline.definition import read_definition
from consumer.pipeline.parse import InvalidPipeline, parse
from contracts.builders import chain, chord, group, map_, pipeline, step
from contracts.pipeline import ElementDefinition
from pipeline_steps.artifacts import Image
from pipeline_steps.loading import load_steps
from tests.pipeline.toys import Toys


@pytest.fixture
def toys() -> Toys:
    return Toys()


def problems(toys: Toys, *elements: ElementDefinition, **options: Any) -> list[tuple[str, str]]:
    """Return what is wrong with a chain of these elements: place and message."""
    try:
        parse(pipeline(*elements), toys.steps, **options)
    except InvalidPipeline as error:
        return [(problem.path, problem.message) for problem in error.problems]
    return []


def places(toys: Toys, *elements: ElementDefinition, **options: Any) -> list[str]:
    return [path for path, _ in problems(toys, *elements, **options)]


def warnings(toys: Toys, *elements: ElementDefinition, **options: Any) -> tuple[str, ...]:
    return parse(pipeline(*elements), toys.steps, **options).warnings


class TestNames:
    def test_an_unknown_step_is_named_with_the_nearest_known_one(self, toys: Toys) -> None:
        assert problems(toys, step("regoins")) == [
            ("steps.0.name", "no step is named 'regoins'; did you mean 'regions'?")
        ]

    def test_a_name_like_no_other_gets_all_known_ones(self, toys: Toys) -> None:
        [(path, message)] = problems(toys, step("xxxxxxxxx"))

        assert path == "steps.0.name"
        assert message.startswith("no step is named 'xxxxxxxxx'; known: busy_in_thread, classify, draw, ")

    def test_every_unknown_step_is_found_wherever_it_is(self, toys: Toys) -> None:
        definition = (
            step("a"),
            chain(step("b"), group(step("c"), chain(step("d")))),
            chord(group(step("e")), step("f")),
            step("regions"),
            map_("segments", chain(step("g"))),
        )

        assert places(toys, *definition) == [
            "steps.0.name",
            "steps.1.steps.0.name",
            "steps.1.steps.1.steps.0.name",
            "steps.1.steps.1.steps.1.steps.0.name",
            "steps.2.group.steps.0.name",
            "steps.2.callback.name",
            "steps.4.body.steps.0.name",
        ]

    def test_all_kinds_of_problems_are_told_at_once(self, toys: Toys) -> None:
        found = places(
            toys,
            step("regoins"),
            step("find", n="many", colour="red"),
            step("needs_sizes"),
            step("find", timeout_s=1000, retries=3),
            settings={"find_label": 5},
        )

        assert found == [
            "steps.0.name",
            "steps.1.kwargs.n",
            "settings.find_label",
            "steps.1.kwargs.colour",
            "steps.2",
            "steps.3.timeout_s",
        ]


class TestConsequences:
    """One mistake is one problem, and hides no other."""

    def test_what_an_unknown_step_would_have_written_is_not_missed(self, toys: Toys) -> None:
        assert places(toys, step("nope"), step("sizes"), step("keep"), step("needs_sizes")) == [
            "steps.0.name"
        ]
        assert places(toys, map_("segments", step("nope")), step("sizes")) == ["steps.0", "steps.0.body.name"]
        assert places(toys, step("draw"), group(step("draw"), step("nope"))) == ["steps.1.steps.1.name"]

    def test_a_misspelt_step_is_checked_as_the_one_that_was_meant(self, toys: Toys) -> None:
        misspelt = step("regoins", label="tray", n=-1)

        assert places(toys, misspelt, step("find", segment_type="bed"), step("needs_sizes")) == [
            "steps.0.name",
            "steps.0.kwargs.n",
            "steps.1.kwargs.segment_type",
            "steps.2",
        ]

    def test_a_wrong_kwarg_hides_neither_the_others_nor_what_they_need(self, toys: Toys) -> None:
        wrong = step("find", n="many", label="forbidden", segment_type="bed")

        assert places(toys, wrong) == ["steps.0.kwargs.n", "steps.0.kwargs.label", "steps.0"]

    def test_a_wrong_setting_hides_no_problem_of_its_readers(self, toys: Toys) -> None:
        elements = (step("regions", label="tray"), step("find", segment_type="bed"))

        assert places(toys, *elements, settings={"find_n": "many"}) == [
            "settings.find_n",
            "steps.1.kwargs.segment_type",
        ]

    def test_what_only_a_default_makes_wrong_is_no_problem_of_its_own(self, toys: Toys) -> None:
        body = step("upload", name=5)

        assert places(toys, step("regions"), map_("segments", body)) == ["steps.1.body.kwargs.name"]
        assert places(toys, step("regions", label=5), step("find", segment_type="tray")) == [
            "steps.0.kwargs.label"
        ]

    def test_a_misspelt_kwarg_counts_as_what_was_meant(self, toys: Toys) -> None:
        body = step("upload", nme="{item}")

        assert places(toys, step("regions", lable="tray"), step("find", segment_type="bed")) == [
            "steps.0.kwargs.lable",
            "steps.1.kwargs.segment_type",
        ]
        assert places(toys, step("regions"), map_("segments", body)) == ["steps.1.body.kwargs.nme"]

    def test_maps_nested_too_deep_are_looked_into(self, toys: Toys) -> None:
        body = map_("segments", map_("segments", map_("segments", map_("segments", step("nope")))))

        assert places(toys, step("regions"), body, step("sizes")) == [
            "steps.1.body.body",
            "steps.1.body.body.body.body.name",
        ]

    def test_warnings_are_told_beside_problems(self, toys: Toys) -> None:
        with pytest.raises(InvalidPipeline) as refused:
            parse(pipeline(step("nope"), group()), toys.steps, settings={"find_m": 1})

        assert refused.value.warnings == (
            "settings.find_m: no step reads it; did you mean 'find_n'?",
            "steps.1.steps: empty, so nothing runs here",
        )


class TestKwargs:
    def test_an_unknown_kwarg_is_named_with_the_nearest_known_one(self, toys: Toys) -> None:
        assert problems(toys, step("regions"), step("find", segment_tipe="bed")) == [
            ("steps.1.kwargs.segment_tipe", "unknown key; did you mean 'segment_type'?")
        ]

    def test_a_step_without_parameters_takes_no_kwargs(self, toys: Toys) -> None:
        assert problems(toys, step("classify", model="x")) == [
            ("steps.0.kwargs.model", "unknown key; none are known")
        ]

    def test_a_wrong_type_says_what_was_expected_and_what_came(self, toys: Toys) -> None:
        [(path, message)] = problems(toys, step("find", n="many"))

        assert path == "steps.0.kwargs.n"
        assert message.startswith("should be a valid integer")
        assert message.endswith(", got 'many'")

    def test_a_value_out_of_range_says_the_range(self, toys: Toys) -> None:
        assert problems(toys, step("find", n=-1)) == [
            ("steps.0.kwargs.n", "should be greater than or equal to 0, got -1")
        ]

    def test_a_long_value_is_shown_in_part(self, toys: Toys) -> None:
        [(_, message)] = problems(toys, step("find", n="x" * 1000))

        assert len(message) < 250

    def test_a_wrong_item_of_a_list_has_its_number(self, toys: Toys) -> None:
        assert places(toys, step("find", classes=["a", 5, "c", None])) == [
            "steps.0.kwargs.classes.1",
            "steps.0.kwargs.classes.3",
        ]

    def test_one_name_may_stand_for_a_list_of_one(self, toys: Toys) -> None:
        [call] = toys.parse(step("find", classes="cajon")).calls()

        assert call.params.classes == ("cajon",)

    def test_a_kwarg_may_be_called_name(self, toys: Toys) -> None:
        definition, wrong = read_definition(
            {"steps": [{"type": "step", "name": "upload", "kwargs": {"name": "front"}}]}
        )

        assert wrong == []
        assert definition is not None
        [call] = parse(definition, toys.steps).calls()
        assert call.params.name == "front"  # type: ignore[attr-defined]

    def test_what_a_parameter_knows_of_its_scope_is_told_at_its_place(self, toys: Toys) -> None:
        assert problems(toys, step("find", label="forbidden")) == [
            ("steps.0.kwargs.label", "no detector finds what is forbidden")
        ]

    def test_a_segment_type_that_no_segment_here_can_have_is_refused(self, toys: Toys) -> None:
        assert problems(toys, step("regions", label="tray"), step("find", segment_type="bed")) == [
            ("steps.1.kwargs.segment_type", "no segment is ever 'bed'")
        ]
        assert problems(toys, step("regions", label="tray"), step("find", segment_type="tray")) == []

    def test_segments_that_may_be_either_writers_may_have_either_label(self, toys: Toys) -> None:
        either = (step("regions", label="tray"), step("regions", label="bed", on_error="skip"))

        assert problems(toys, *either, step("find", segment_type="tray")) == []
        assert problems(toys, *either, step("find", segment_type="bed")) == []
        assert places(toys, *either, step("find", segment_type="pot")) == ["steps.2.kwargs.segment_type"]

    def test_calls_do_not_share_kwargs(self, toys: Toys) -> None:
        first, second = toys.parse(step("upload", folder="originals"), step("upload", name="x")).calls()

        assert (first.params.folder, first.params.name) == ("originals", "photo")
        assert (second.params.folder, second.params.name) == ("images", "x")


class TestSettings:
    @pytest.mark.parametrize(
        ("kwargs", "settings", "n"),
        [
            ({}, {}, 3),
            ({}, {"find_n": 7}, 7),
            ({"n": 5}, {"find_n": 7}, 5),
            ({"n": 5}, {}, 5),
            ({}, {"find_n": None}, 3),
            ({}, {"n": 7}, 3),
        ],
    )
    def test_kwargs_count_before_settings_and_settings_before_defaults(
        self, toys: Toys, kwargs: dict[str, Any], settings: dict[str, Any], n: int
    ) -> None:
        [call] = toys.parse(step("find", **kwargs), settings=settings).calls()

        assert call.params.n == n

    def test_a_wrong_setting_is_told_at_its_own_place_and_once(self, toys: Toys) -> None:
        found = problems(toys, step("find"), step("find"), settings={"find_n": "seven"})

        [(path, message)] = found
        assert path == "settings.find_n"
        assert message.endswith("got 'seven'")

    def test_a_wrong_setting_that_a_kwarg_overrides_is_never_read(self, toys: Toys) -> None:
        assert problems(toys, step("find", n=1), settings={"find_n": "seven"}) == []

    def test_what_the_scope_forbids_of_a_setting_is_told_at_the_setting(self, toys: Toys) -> None:
        assert places(toys, step("find"), settings={"find_label": "forbidden"}) == ["settings.find_label"]

    def test_a_setting_nothing_reads_is_a_warning_with_the_nearest_name(self, toys: Toys) -> None:
        assert warnings(toys, step("find"), settings={"find_m": 1, "zzzzzzzz": 2}) == (
            "settings.find_m: no step reads it; did you mean 'find_n'?",
            "settings.zzzzzzzz: no step reads it; known: find_label, find_n",
        )

    def test_a_setting_of_an_absent_step_is_no_warning(self, toys: Toys) -> None:
        assert warnings(toys, step("regions"), settings={"find_n": 1}) == ()

    def test_the_pipelines_name_is_read_elsewhere_and_the_output_folder_nowhere(self, toys: Toys) -> None:
        settings = {"pipeline_name": "count beds", "output_dir": "/srv/pictures"}

        assert warnings(toys, step("find"), settings=settings) == (
            "settings.output_dir: ignored: pictures are drawn in memory, no folder is needed",
        )


class TestDataFlow:
    def test_an_input_nothing_writes_is_named_with_the_steps_that_would(self, toys: Toys) -> None:
        assert problems(toys, step("keep")) == [
            (
                "steps.0",
                "keep needs Segments, which nothing before it writes (steps that write it: keep, regions)",
            )
        ]

    def test_what_comes_later_is_not_there_yet(self, toys: Toys) -> None:
        assert places(toys, step("sizes"), step("find")) == ["steps.0"]
        assert places(toys, step("find"), step("sizes")) == []

    def test_a_parameter_may_need_an_input(self, toys: Toys) -> None:
        [(path, message)] = problems(toys, step("find", segment_type="bed"))

        assert path == "steps.0"
        assert message.startswith("find needs Segments, which nothing before it writes")

    def test_branches_do_not_see_each_other(self, toys: Toys) -> None:
        assert places(toys, group(step("find"), step("sizes"))) == ["steps.0.steps.1"]

    def test_after_a_group_all_it_wrote_is_there(self, toys: Toys) -> None:
        assert places(toys, group(step("find"), step("regions")), step("sizes"), step("keep")) == []

    def test_a_chords_callback_sees_what_its_group_wrote(self, toys: Toys) -> None:
        assert places(toys, chord(group(step("find")), step("total"))) == []
        assert places(toys, chord(group(step("regions")), step("total"))) == ["steps.0.callback"]

    def test_a_nested_chain_passes_on_what_it_wrote(self, toys: Toys) -> None:
        assert places(toys, chain(chain(step("find"))), chain(step("sizes")), step("needs_sizes")) == []

    def test_two_branches_that_write_what_there_is_only_one_of_are_in_conflict(self, toys: Toys) -> None:
        assert problems(toys, step("regions"), group(step("draw"), chain(step("find"), step("draw")))) == [
            (
                "steps.1",
                (
                    "two branches write Overlay (steps.1.steps.0 and steps.1.steps.1.steps.1); "
                    "put one after the other, or let one branch do it"
                ),
            )
        ]

    def test_a_conflict_in_a_chords_group_is_at_the_group(self, toys: Toys) -> None:
        assert places(toys, chord(group(step("regions"), step("regions")))) == ["steps.0.group"]

    def test_branches_may_both_write_what_can_be_merged(self, toys: Toys) -> None:
        assert places(toys, group(step("find"), step("find"), step("upload"), step("upload"))) == []

    def test_one_after_the_other_may_write_the_same(self, toys: Toys) -> None:
        assert places(toys, step("draw"), step("draw"), chain(step("draw"))) == []

    def test_the_picture_itself_must_be_given(self, toys: Toys) -> None:
        assert places(toys, step("find"), given=frozenset()) == ["steps.0"]
        assert places(toys, step("find"), given=frozenset({Image})) == []


class TestStaleness:
    def test_what_speaks_only_of_things_replaced_since_cannot_be_read(self, toys: Toys) -> None:
        assert problems(toys, step("find"), step("sizes"), step("find"), step("needs_sizes")) == [
            (
                "steps.3",
                "needs_sizes needs Sizes, but those of steps.1 speak of Detections that steps.2 replaced",
            )
        ]

    def test_what_speaks_of_things_that_were_only_refined_can_be_read(self, toys: Toys) -> None:
        assert places(toys, step("find"), step("sizes"), step("thin"), step("needs_sizes")) == []

    def test_it_can_be_read_before_and_again_after_it_was_renewed(self, toys: Toys) -> None:
        renewed = (step("sizes"), step("needs_sizes"))

        assert places(toys, step("find"), *renewed, step("find"), *renewed) == []

    def test_a_detection_outlives_the_segment_it_lay_in(self, toys: Toys) -> None:
        assert places(toys, step("regions"), step("find"), step("regions"), step("sizes")) == []

    def test_a_replacement_that_may_fail_leaves_the_earlier_ones_to_be_spoken_of(self, toys: Toys) -> None:
        maybe = step("find", on_error="skip")

        assert places(toys, step("find"), step("sizes"), maybe, step("needs_sizes")) == []

    @pytest.mark.parametrize("sizes_first", [True, False])
    def test_what_speaks_of_one_branchs_things_can_be_read_after_the_group(
        self, toys: Toys, sizes_first: bool
    ) -> None:
        branches = [chain(step("find"), step("sizes")), step("find")]
        both = branches if sizes_first else branches[::-1]

        assert places(toys, group(*both), step("needs_sizes")) == []

    def test_what_speaks_of_things_that_a_whole_group_replaced_cannot(self, toys: Toys) -> None:
        replaced = group(step("find"), step("find"))

        assert places(toys, step("find"), step("sizes"), replaced, step("needs_sizes")) == ["steps.3"]

    def test_things_that_one_branch_refined_and_another_replaced_are_still_partly_there(
        self, toys: Toys
    ) -> None:
        partly = group(step("thin"), step("find"))

        assert places(toys, step("find"), step("sizes"), partly, step("needs_sizes")) == []


class TestMaps:
    def test_a_body_sees_everything_so_far_and_its_own_picture(self, toys: Toys) -> None:
        body = chain(step("find", segment_type="bed"), step("sizes"))

        assert places(toys, step("regions"), map_("segments", body), step("needs_sizes")) == []

    @pytest.mark.parametrize(
        ("over", "kind"), [("segments", "Segments"), ("crops", "Crops"), ("detections", "Detections")]
    )
    def test_what_is_mapped_over_must_have_been_written(self, toys: Toys, over: Any, kind: str) -> None:
        [(path, message)] = problems(toys, map_(over, step("find")))

        assert path == "steps.0"
        assert message.startswith(f"map over '{over}' needs {kind}, which nothing before it writes")

    def test_items_are_cut_from_a_picture_unless_they_are_crops(self, toys: Toys) -> None:
        bodies = {over: map_(over, step("release")) for over in ("segments", "crops", "detections")}
        given = frozenset(kind for name in ("regions", "keep", "find") for kind in toys.steps[name].writes)

        assert places(toys, *bodies.values(), given=given) == ["steps.0", "steps.2"]

    def test_a_body_writes_nothing_of_which_there_is_only_one(self, toys: Toys) -> None:
        body = chain(step("find"), step("draw"))

        assert problems(toys, step("regions"), map_("segments", body)) == [
            ("steps.1.body.steps.1", "writes Overlay, of which there can be only one; not inside a map")
        ]

    def test_a_body_may_write_what_adds_up(self, toys: Toys) -> None:
        body = step("upload", name="crop-{item}")

        assert places(toys, step("regions"), map_("segments", body)) == []

    def test_a_parameter_knows_that_it_is_inside_a_map(self, toys: Toys) -> None:
        assert problems(toys, step("regions"), map_("segments", step("upload"))) == [
            ("steps.1.body.kwargs.name", "inside a map the name must hold {item}")
        ]
        assert places(toys, step("regions"), map_("segments", step("find")), step("upload")) == []

    def test_maps_nest_as_deep_as_identities_have_room(self, toys: Toys) -> None:
        def nested(depth: int) -> ElementDefinition:
            return map_("segments", nested(depth - 1)) if depth else step("find")

        assert places(toys, step("regions"), nested(2)) == []
        assert problems(toys, step("regions"), nested(3)) == [
            ("steps.1.body.body", "maps are nested more than 2 deep")
        ]

    def test_maps_side_by_side_are_not_nested(self, toys: Toys) -> None:
        one = map_("segments", step("find"))

        assert places(toys, step("regions"), one, group(one, one), one) == []


class TestMaybe:
    """A step that may be skipped leaves its outputs in doubt; who needs them may not be run."""

    def maybes(self, toys: Toys, *elements: ElementDefinition) -> set[str]:
        """Return which toy outputs the elements leave in doubt: found by asking what a map would be."""
        ran = toys.execute(*elements, step("total"))
        return {path for path, status in ran.statuses.items() if status == "not_run"}

    def test_a_reader_of_what_may_be_missing_parses_and_is_not_run(self, toys: Toys) -> None:
        assert self.maybes(toys, step("fail", on_error="skip")) == {"steps.1"}

    def test_doubt_spreads_to_what_is_made_of_it(self, toys: Toys) -> None:
        skipped = (step("fail", on_error="skip"), step("sizes"), step("needs_sizes"))

        assert self.maybes(toys, *skipped) == {"steps.1", "steps.2", "steps.3"}

    def test_an_earlier_certain_write_takes_the_doubt_away(self, toys: Toys) -> None:
        assert self.maybes(toys, step("find"), step("fail", on_error="skip")) == set()

    def test_a_branch_that_writes_it_for_certain_takes_the_doubt_away(self, toys: Toys) -> None:
        assert self.maybes(toys, group(step("find"), step("fail", on_error="skip"))) == set()


class TestLimits:
    def test_a_definition_built_in_python_has_the_limit_of_one_that_was_read(self, toys: Toys) -> None:
        assert problems(toys, *[step("find")] * 512) == []
        assert problems(toys, *[step("find")] * 513) == [("steps", "513 elements; at most 512 are allowed")]

    def test_what_is_wrong_in_thousands_of_places_is_told_in_a_hundred(self) -> None:
        """Five hundred steps read the setting, and each would find ten thousand things wrong with it."""
        readers = [step("species_distributor")] * 500

        with pytest.raises(InvalidPipeline) as refused:
            parse(
                pipeline(step("segmentation"), step("detection"), *readers),
                load_steps(plugins=False),
                settings={"species": list(range(10_000))},
            )

        told = [problem.path for problem in refused.value.problems]
        assert told == [*(f"settings.species.{i}" for i in range(100)), "(root)"]

    def test_of_very_many_settings_that_nothing_reads_only_some_are_named(self, toys: Toys) -> None:
        unread = {f"{i:03}-{'x' * 100}": 1 for i in range(500)}

        told = warnings(toys, step("find"), settings=unread)

        assert len(told) == 21
        assert told[-1] == "settings: 480 more that no step reads"
        assert max(map(len, told)) < 300

    def test_the_last_call_still_has_room_for_its_identities(self, toys: Toys) -> None:
        *_, last = toys.parse(*[step("find")] * 512).calls()

        assert last.number == 511


class TestTime:
    def test_tries_that_would_outlast_the_pipeline_are_refused(self, toys: Toys) -> None:
        assert problems(toys, step("find", timeout_s=700, retries=2)) == [
            (
                "steps.0.timeout_s",
                "700 s, tried 3 times, is longer than the whole pipeline may take (1800 s)",
            )
        ]

    def test_tries_that_just_fit_are_not(self, toys: Toys) -> None:
        assert problems(toys, step("find", timeout_s=600, retries=2)) == []
        assert problems(toys, step("find", retries=10)) == []

    def test_the_pipelines_time_is_the_operators(self, toys: Toys) -> None:
        assert places(toys, step("find", timeout_s=61), pipeline_timeout=60) == ["steps.0.timeout_s"]


class TestWarnings:
    def test_empty_steps_run_nothing_and_say_so(self, toys: Toys) -> None:
        assert warnings(toys) == ("steps: empty, so nothing runs here",)
        assert warnings(toys, chain(), group(), chord(group())) == (
            "steps.0.steps: empty, so nothing runs here",
            "steps.1.steps: empty, so nothing runs here",
            "steps.2.group.steps: empty, so nothing runs here",
        )

    def test_the_step_that_sent_results_does_nothing_any_more(self, toys: Toys) -> None:
        ignored = step("send_results_backend", url="https://somewhere")

        parsed = toys.parse(step("find"), ignored, chord(group(step("find")), ignored), group(ignored))

        assert [call.path for call in parsed.calls()] == ["steps.0", "steps.2.group.steps.0"]
        assert [warning.partition(":")[0] for warning in parsed.warnings] == [
            "steps.1",
            "steps.2.callback",
            "steps.3.steps.0",
        ]
        assert parsed.warnings[0].endswith(
            "send_results_backend is ignored: delivery is the worker's own job"
        )

    def test_it_may_even_be_the_body_of_a_map(self, toys: Toys) -> None:
        parsed = toys.parse(step("regions"), map_("segments", step("send_results_backend")), step("find"))

        assert [call.path for call in parsed.calls()] == ["steps.0", "steps.2"]

    def test_a_good_pipeline_has_none(self, toys: Toys) -> None:
        assert warnings(toys, step("find"), settings={"find_n": 1}) == ()


class TestWhatIsRead:
    def test_a_pipeline_that_reads_no_picture_needs_none(self, toys: Toys) -> None:
        assert not toys.parse(step("release")).reads(Image)
        assert toys.parse(step("release"), group(chain(step("classify")))).reads(Image)

    def test_a_maps_items_are_cut_from_the_picture(self, toys: Toys) -> None:
        assert toys.parse(step("regions"), map_("segments", step("release"))).reads(Image)

    @pytest.mark.parametrize(
        ("elements", "in_windows"),
        [
            ((step("sahi_detection"), step("count"), step("size_calculator")), True),
            ((chord(group(step("sahi_detection")), step("aggregate_detections")),), True),
            ((step("sahi_detection"), step("upload_image")), False),
            ((group(step("sahi_detection"), step("segmentation")),), False),
            ((step("sahi_detection"), map_("detections", step("species_distributor"))), False),
        ],
    )
    def test_a_picture_may_be_read_by_windows_if_no_step_needs_it_whole(
        self, elements: tuple[ElementDefinition, ...], in_windows: bool
    ) -> None:
        assert parse(pipeline(*elements), load_steps(plugins=False)).in_windows is in_windows

    @pytest.mark.parametrize(
        ("elements", "only_shows"),
        [
            ((step("detection"), step("count"), step("size_calculator")), True),
            ((step("classification"),), True),
            ((chord(group(step("detection"), step("segmentation")), step("aggregate_detections")),), True),
            ((step("segmentation", mode="automatic"), step("count")), True),
            ((step("segmentation"), step("segment_filter")), False),
            ((step("segmentation", mode="automatic", classifier="species"),), False),
            ((step("segmentation", mode="automatic", crop_n_layers=1),), False),
            ((step("detection"), step("classification")), False),
            ((step("detection"), step("classification", over="image")), True),
            ((step("segmentation"), step("detection", segment_type="bed")), False),
            ((step("sahi_detection"), step("count")), False),
            ((step("detection"), step("upload_image")), False),
            ((step("detection"), step("visualize_detections")), False),
            ((step("detection"), map_("detections", step("species_distributor"))), False),
        ],
    )
    def test_a_photo_may_be_scaled_if_it_is_only_shown_to_models_as_a_whole(
        self, elements: tuple[ElementDefinition, ...], only_shows: bool
    ) -> None:
        assert parse(pipeline(*elements), load_steps(plugins=False)).only_shows is only_shows
