"""Reading a definition from JSON: its limits, its grammar, and where exactly it breaks one or the other."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.pipeline.definition import read_definition
from consumer.pipeline.limits import MAX_BYTES, MAX_DEPTH, MAX_NODES
from consumer.pipeline.second_look import look_again
from contracts.pipeline import PipelineDefinition

STEP = {"type": "step", "name": "find"}


def problems(raw: object) -> list[tuple[str, str]]:
    definition, found = read_definition(raw)
    assert (definition is None) == bool(found)
    return [(problem.path, problem.message) for problem in found]


def places(raw: object) -> list[str]:
    return [path for path, _ in problems(raw)]


def chains(depth: int) -> dict[str, Any]:
    """Return a root with a step so many elements below it."""
    element: dict[str, Any] = STEP
    for _ in range(depth - 1):
        element = {"type": "chain", "steps": [element]}
    return {"steps": [element]}


class TestGrammar:
    @pytest.mark.parametrize(
        "raw",
        [
            {"type": "chain", "steps": [STEP]},
            {"steps": [STEP]},
            {"steps": []},
            {"steps": [{"type": "chain", "steps": []}, {"type": "group", "steps": []}]},
            {"steps": [{"type": "chord", "group": {"steps": [STEP]}}]},
            {"steps": [{"type": "chord", "group": {"type": "group", "steps": []}, "callback": None}]},
            {"steps": [{"type": "chord", "group": {"steps": []}, "callback": {"name": "total"}}]},
            {"steps": [{"type": "map", "over": "crops", "body": STEP}]},
            {"steps": [{**STEP, "kwargs": {"name": "x", "type": "chain"}, "id": "a", "timeout_s": 0.5}]},
        ],
    )
    def test_what_the_grammar_allows_is_read(self, raw: object) -> None:
        assert problems(raw) == []

    def test_a_missing_root_type_means_a_chain(self) -> None:
        assert read_definition({"steps": [STEP]}) == read_definition({"type": "chain", "steps": [STEP]})

    @pytest.mark.parametrize("kind", ["step", "group", "chord", "map", "nonsense", 5, None])
    def test_the_root_is_a_chain_and_nothing_else(self, kind: Any) -> None:
        [(path, message)] = problems({"type": kind, "steps": []})

        assert path == "type"
        assert message == f"should be 'chain', got {kind!r}"

    @pytest.mark.parametrize("raw", [None, [], "chain", 5, True])
    def test_a_definition_is_an_object(self, raw: object) -> None:
        assert places(raw) == ["(root)"]

    def test_steps_are_required_and_a_list(self) -> None:
        assert problems({}) == [("steps", "required, but missing")]
        assert places({"steps": None}) == ["steps"]
        assert places({"steps": {"0": STEP}}) == ["steps"]

    def test_an_element_without_a_type_is_told_which_there_are(self) -> None:
        assert problems({"steps": [{"name": "find"}]}) == [
            ("steps.0.type", "required: one of step, chain, group, chord, map")
        ]

    def test_an_unknown_type_gets_the_nearest(self) -> None:
        assert problems({"steps": [{"type": "gruop", "steps": []}]}) == [
            ("steps.0.type", "unknown type 'gruop'; did you mean 'group'?")
        ]

    def test_an_element_is_an_object(self) -> None:
        [(path, message)] = problems({"steps": ["find"]})

        assert path == "steps.0"
        assert message.endswith("got 'find'")

    @pytest.mark.parametrize(
        ("raw", "place"),
        [
            ({"steps": [], "stpes": []}, "stpes"),
            ({"steps": [{**STEP, "kwarg": {}}]}, "steps.0.kwarg"),
            ({"steps": [{"type": "chain", "steps": [], "name": "x"}]}, "steps.0.name"),
            ({"steps": [{"type": "group", "steps": [{**STEP, "retry": 1}]}]}, "steps.0.steps.0.retry"),
            ({"steps": [{"type": "chord", "group": {"steps": [], "body": 1}}]}, "steps.0.group.body"),
            (
                {"steps": [{"type": "chord", "group": {"steps": []}, "callback": {"name": "x", "on": 1}}]},
                "steps.0.callback.on",
            ),
            ({"steps": [{"type": "map", "over": "crops", "body": {**STEP, "step": 1}}]}, "steps.0.body.step"),
            ({"steps": [{"type": "map", "over": "crops", "body": STEP, "until": 1}]}, "steps.0.until"),
        ],
    )
    def test_an_unknown_key_is_refused_at_every_level(self, raw: object, place: str) -> None:
        [(path, message)] = problems(raw)

        assert path == place
        assert message.startswith("unknown key; ")

    def test_an_unknown_key_gets_the_nearest_known_one(self) -> None:
        assert problems({"steps": [{**STEP, "kwags": {}}]}) == [
            ("steps.0.kwags", "unknown key; did you mean 'kwargs'?")
        ]

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 65}, "name"),
            ({"name": 5}, "name"),
            ({"kwargs": None}, "kwargs"),
            ({"kwargs": []}, "kwargs"),
            ({"retries": -1}, "retries"),
            ({"retries": 11}, "retries"),
            ({"retries": 1.5}, "retries"),
            ({"timeout_s": 0}, "timeout_s"),
            ({"timeout_s": "soon"}, "timeout_s"),
            ({"on_error": "ignore"}, "on_error"),
            ({"id": 5}, "id"),
        ],
    )
    def test_a_steps_fields_have_types_and_ranges(self, changes: dict[str, Any], key: str) -> None:
        assert places({"steps": [{"type": "group", "steps": [{**STEP, **changes}]}]}) == [
            f"steps.0.steps.0.{key}"
        ]

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"over": "photos"}, "over"),
            ({"max_concurrency": 0}, "max_concurrency"),
            ({"max_concurrency": 257}, "max_concurrency"),
            ({"min_success": 1.01}, "min_success"),
            ({"min_success": -0.01}, "min_success"),
            ({"body": None}, "body"),
            ({"body": [STEP]}, "body"),
        ],
    )
    def test_a_maps_fields_have_types_and_ranges(self, changes: dict[str, Any], key: str) -> None:
        assert places({"steps": [{"type": "map", "over": "crops", "body": STEP, **changes}]}) == [
            f"steps.0.{key}"
        ]

    def test_a_chords_group_is_a_group_and_its_callback_a_step(self) -> None:
        group = {"type": "group", "steps": []}

        assert places({"steps": [{"type": "chord", "group": {"type": "chain", "steps": []}}]}) == [
            "steps.0.group.type"
        ]
        assert places({"steps": [{"type": "chord", "group": group, "callback": group}]}) == [
            "steps.0.callback.type"
        ]
        assert problems({"steps": [{"type": "chord"}]}) == [("steps.0.group", "required, but missing")]

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (
                {"steps": [{**STEP, "step": 1}]},
                ("steps.0.step", "known: id, kwargs, name, on_error, retries, timeout_s, type"),
            ),
            ({"steps": [], "foo": 1}, ("foo", "known: steps, type")),
            (
                {"steps": [{"type": "chord", "group": {"steps": [], "min_succes": 1}}]},
                ("steps.0.group.min_succes", "did you mean 'min_success'?"),
            ),
            (
                {"steps": [{"type": "map", "over": "crops", "body": STEP, "callback": STEP}]},
                ("steps.0.callback", "known: body, max_concurrency, min_success, on_error, over, type"),
            ),
        ],
    )
    def test_a_hint_names_only_keys_of_that_kind_of_element(
        self, raw: object, problem: tuple[str, str]
    ) -> None:
        path, hint = problem

        assert problems(raw) == [(path, f"unknown key; {hint}")]

    def test_a_misspelt_key_is_taken_for_the_nearest_so_that_nothing_is_missing(self) -> None:
        raw = {
            "stepss": [
                {"type": "step", "nme": "find", "kwarg": [], "retrys": 99},
                {"typ": "map", "ovr": "crops", "bdy": {**STEP, "timeout": -1}},
                {"type": "chord", "grup": {"stps": [{**STEP, "id": 5}]}, "calback": 7},
            ]
        }

        assert sorted(places(raw)) == [
            "stepss",
            "stepss.0.kwarg",
            "stepss.0.kwarg",
            "stepss.0.nme",
            "stepss.0.retrys",
            "stepss.0.retrys",
            "stepss.1.bdy",
            "stepss.1.bdy.timeout",
            "stepss.1.bdy.timeout",
            "stepss.1.ovr",
            "stepss.1.typ",
            "stepss.2.calback",
            "stepss.2.calback",
            "stepss.2.grup",
            "stepss.2.grup.stps",
            "stepss.2.grup.stps.0.id",
        ]

    def test_of_an_element_whose_type_is_wrong_the_rest_is_checked_as_what_its_keys_say(self) -> None:
        raw = {
            "steps": [
                {"type": "stap", "name": "find", "retries": 99},
                {"name": "find", "kwags": {}},
                {"type": "loop", "over": "beds", "body": {"type": "gruop", "steps": [7]}},
                {"type": "chord", "group": {"type": "chain", "steps": [{"type": "step"}]}},
            ]
        }

        assert sorted(places(raw)) == [
            "steps.0.retries",
            "steps.0.type",
            "steps.1.kwags",
            "steps.1.type",
            "steps.2.body.steps.0",
            "steps.2.body.type",
            "steps.2.over",
            "steps.2.type",
            "steps.3.group.steps.0.name",
            "steps.3.group.type",
        ]

    def test_every_problem_is_told_at_once(self) -> None:
        raw = {"kind": "chain", "steps": [{"type": "step"}, {"type": "stp"}, {**STEP, "retries": "x"}, 7]}

        assert places(raw) == ["steps.0.name", "steps.1.type", "steps.2.retries", "steps.3", "kind"]


class TestLimits:
    def test_a_limit_hides_no_problem_of_what_lies_within_it(self) -> None:
        deep, many = chains(MAX_DEPTH + 1), {"steps": [STEP] * (MAX_NODES + 1)}
        large = {"steps": [{**STEP, "kwargs": {"label": "x" * MAX_BYTES}}]}

        for raw in (deep, many, large):
            assert sorted(places({**raw, "kind": 1})) == ["kind", "steps"]

    def test_elements_may_nest_up_to_the_limit(self) -> None:
        assert problems(chains(MAX_DEPTH)) == []
        assert problems(chains(MAX_DEPTH + 1)) == [("steps", "elements are nested more than 32 deep")]

    def test_groups_callbacks_and_bodies_nest_as_chains_do(self) -> None:
        def nested(depth: int) -> dict[str, Any]:
            element: dict[str, Any] = STEP
            for i in range(depth - 1):
                element = (
                    {"type": "map", "over": "crops", "body": element}
                    if i % 2
                    else {"type": "group", "steps": [element]}
                )
            return {"steps": [element]}

        assert places(nested(MAX_DEPTH)) == []
        assert places(nested(MAX_DEPTH + 1)) == ["steps"]

    def test_there_may_be_so_many_elements_and_no_more(self) -> None:
        assert problems({"steps": [STEP] * MAX_NODES}) == []
        assert problems({"steps": [STEP] * (MAX_NODES + 1)}) == [
            ("steps", "at least 513 elements; at most 512 are allowed")
        ]

    def test_elements_are_counted_wherever_they_are(self) -> None:
        def spread(n: int) -> dict[str, Any]:
            chord = {"type": "chord", "group": {"steps": [STEP] * n}, "callback": {"name": "total"}}
            return {"steps": [{"type": "map", "over": "crops", "body": {"type": "chain", "steps": [chord]}}]}

        # Beside the steps: map, chain, chord, group and callback.
        assert places(spread(MAX_NODES - 5)) == []
        assert places(spread(MAX_NODES - 4)) == ["steps"]

    def test_there_may_be_so_many_bytes_and_no_more(self) -> None:
        def labelled(label: str) -> dict[str, Any]:
            return {"steps": [{**STEP, "kwargs": {"label": label}}]}

        room = MAX_BYTES - len(orjson.dumps(labelled("")))

        assert problems(labelled("x" * room)) == []
        assert problems(labelled("x" * (room + 1))) == [
            ("steps", "262145 bytes of JSON; at most 262144 are allowed")
        ]

    def test_bytes_are_counted_and_not_characters(self) -> None:
        assert places({"steps": [{**STEP, "kwargs": {"label": "ñ" * 200_000}}]}) == ["steps"]

    @pytest.mark.parametrize("depth", [1_000, 10_000, 100_000])
    def test_no_depth_of_elements_is_too_deep_to_be_refused(self, depth: int) -> None:
        assert problems(chains(depth)) == [("steps", "elements are nested more than 32 deep")]

    @pytest.mark.parametrize("depth", [300, 10_000, 100_000])
    @pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
    def test_no_depth_of_other_values_is_either(self, depth: int, wrap: Any) -> None:
        value: Any = 1
        for _ in range(depth):
            value = wrap(value)

        for raw in (
            value,
            {"steps": value},
            {"steps": [value]},
            {"steps": [{**STEP, "kwargs": {"a": value}}]},
        ):
            assert places(raw) in (["steps"], ["(root)"])

    def test_what_is_no_json_at_all_is_a_problem_too(self) -> None:
        assert places({"steps": [{**STEP, "kwargs": {5: "a number for a key"}}]}) == ["steps"]
        assert places({"steps": [{**STEP, "kwargs": {"a": {1, 2}}}]}) == ["steps"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "steps", "name", "kwargs", "group", "callback", "body", "over", "x"]),
            inner,
        )
    ),
    max_leaves=20,
)
ELEMENTS = st.recursive(
    st.just(STEP) | JSON,
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.sampled_from(["chain", "group"]), "steps": st.lists(inner, max_size=3)}
        )
        | st.fixed_dictionaries({"type": st.just("chord"), "group": inner, "callback": inner})
        | st.fixed_dictionaries({"type": st.just("map"), "over": st.just("crops"), "body": inner})
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries({"steps": st.lists(ELEMENTS, max_size=4)}))
def test_whatever_comes_is_a_definition_or_a_list_of_problems(raw: object) -> None:
    definition, found = read_definition(raw)

    assert (look_again(raw).problems == []) == (definition is not None)
    if definition is None:
        assert found
        assert all(problem.path and problem.message for problem in found)
    else:
        assert found == []
        again = PipelineDefinition.model_validate_json(definition.model_dump_json())
        assert again == definition
