"""Whatever arrives is a result or a dead letter, is understood or refused with a path, and has one id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consumer.broker import Delivery
from consumer.decode import Decoder
from consumer.jobs import Ids, Job, Source, result_id
from consumer.pipeline.definition import read_definition
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.pipeline.problems import Problem
from consumer.presets import load_presets
from consumer.routes import Routes
from pipeline_steps.loading import load_steps
from tests.faults.invariants import acked_only_when_done, nothing_is_lost
from tests.faults.peers import REQUESTS, Peers, open_peers
from tools.fuzz import CORPUS, check

STEPS = load_steps(plugins=False)
NAMES = sorted(step.name for step in STEPS)
REQUEST: dict[str, Any] = {
    "tenant_id": "acme",
    "session_id": "00000000-0000-4000-8000-000000000001",
    "image_id": "00000000-0000-4000-8000-000000000002",
    "image_url": "gs://photos/acme/originals/a.jpg",
    "pipeline_definition": {"steps": [{"type": "step", "name": "work"}]},
    "settings": {},
}

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def changed_requests() -> st.SearchStrategy[bytes]:
    """A good request of which one part is something else, or missing."""

    def change(key: str, value: object, missing: bool) -> bytes:
        body = {name: REQUEST[name] for name in REQUEST if not (missing and name == key)}
        return json.dumps(body if missing else {**body, key: value}).encode()

    return st.builds(change, st.sampled_from(sorted(REQUEST)), values, st.booleans())


def cut_requests() -> st.SearchStrategy[bytes]:
    whole = json.dumps(REQUEST).encode()
    return st.integers(0, len(whole) - 1).map(lambda end: whole[:end])


messages = st.binary() | st.text().map(str.encode) | values.map(lambda v: json.dumps(v).encode())
messages |= changed_requests() | cut_requests()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with open_peers(tmp_path_factory.mktemp("properties")) as peers:
        peers.worker(BRAKE_DEAD_LETTERS="0", SLOTS="4").until_ready()
        yield peers
        # Changed requests are about one image and are different work: what is said of single images is not.
        assert [*nothing_is_lost(peers, settled=True), *acked_only_when_done(peers)] == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(messages, min_size=1, max_size=10))
def test_any_bytes_end_as_a_result_or_as_one_dead_letter_with_those_bytes(
    shared: Peers, batch: list[bytes]
) -> None:
    ids = {shared.broker.publish(REQUESTS, data, origin="anywhere"): data for data in batch}
    shared.until_settled()

    story = shared.story()
    letters, results = story.letters(), story.published_results()
    for message_id, data in ids.items():
        if message_id in letters:
            assert [letter.data for letter in letters[message_id]] == [data]
        else:
            assert json.loads(data)["image_id"] in results
    assert shared.workers[0].alive


# ------------------------------------------------------------------------------- definitions

kwargs = st.dictionaries(
    st.sampled_from(["model", "segment_type", "confidence", "classes", "name", "source", "dest_prefix"])
    | st.text(max_size=5),
    scalars | st.lists(scalars, max_size=2),
    max_size=2,
)
calls = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES) | st.text(max_size=8)},
    optional={
        "type": st.just("step"),
        "kwargs": kwargs,
        "id": st.text(max_size=4),
        "retries": st.integers(-1, 10),
        "timeout_s": st.integers(-1, 4000),
        "on_error": st.sampled_from(["fail", "skip", "shrug"]),
    },
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    elements = st.lists(inner, max_size=4)
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("chain"), "steps": elements}),
        st.fixed_dictionaries(
            {"type": st.just("group"), "steps": elements},
            optional={"min_success": st.integers(-1, 5), "on_error": st.just("skip")},
        ),
        st.fixed_dictionaries(
            {"type": st.just("chord"), "group": st.fixed_dictionaries({"steps": elements})},
            optional={"callback": calls},
        ),
        st.fixed_dictionaries(
            {"type": st.just("map"), "over": st.sampled_from(["segments", "crops", "stones"]), "body": inner},
            optional={"min_success": st.floats(-1, 2), "max_concurrency": st.integers(-1, 20)},
        ),
        st.dictionaries(st.sampled_from(["type", "steps", "name", "body", "stepz"]), values, max_size=3),
    )


elements = st.recursive(calls | values, containers, max_leaves=12)
definitions = st.fixed_dictionaries({"steps": st.lists(elements, max_size=5)}) | values


@settings(max_examples=300, deadline=None)
@given(definitions)
@example({"steps": [{"name": "detection"}, {"name": "count"}]})
def test_any_definition_is_a_pipeline_or_every_problem_has_a_path(raw: Any) -> None:
    definition, problems = read_definition(raw)
    if definition is not None:
        try:
            parse(definition, STEPS)
        except InvalidPipeline as error:
            problems = error.problems
        else:
            return
    assert problems
    assert all(isinstance(p, Problem) and p.path and p.message for p in problems)


# ------------------------------------------------------------------------------- the identity


def identity(definition: Any, message_settings: Any) -> str:
    ids = Ids("acme", UUID(int=1), UUID(int=2))
    return result_id(ids, Source("photos", "acme/a.jpg"), definition, message_settings)


def reordered(value: Any) -> Any:
    """The same JSON with the keys of every object in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(each) for each in value] if isinstance(value, list) else value


objects = st.dictionaries(st.text(), values, max_size=4)


@given(objects, objects)
def test_the_digest_ignores_the_order_of_keys(definition: Any, message_settings: Any) -> None:
    assert identity(definition, message_settings) == identity(
        reordered(definition), reordered(message_settings)
    )


@given(objects, objects, objects, objects)
@example({"a": 1}, {}, {"a": 1.0}, {})
@example({"a": True}, {}, {"a": 1}, {})
@example({"a": [1, 2]}, {}, {"a": [2, 1]}, {})
@example({"a": {}}, {}, {"a": []}, {})
@example({"a": None}, {}, {}, {})
@example({"a": 1}, {}, {}, {"a": 1})
@example({"a": ""}, {}, {"a": None}, {})
def test_the_digest_ignores_nothing_else(one: Any, with_one: Any, other: Any, with_other: Any) -> None:
    same = (canonical(one), canonical(with_one)) == (canonical(other), canonical(with_other))
    assert (identity(one, with_one) == identity(other, with_other)) == same


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "Acme"},
        {"session_id": "00000000-0000-4000-8000-000000000003"},
        {"image_id": "00000000-0000-4000-8000-000000000003"},
        {"image_url": "gs://photos/acme/originals/b.jpg"},
        {"settings": {"confidence": 0.5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_request_that_asks_for_other_work_has_another_id(change: dict[str, Any]) -> None:
    assert id_of({**REQUEST, **change}) != id_of(REQUEST)


def test_who_is_called_back_and_what_nobody_reads_is_no_other_work() -> None:
    assert id_of({**REQUEST, "callback_url": "https://a.example/results", "colour": 1}) == id_of(REQUEST)


def id_of(body: dict[str, Any]) -> str:
    decoder = Decoder(load_presets(None), Routes(()), 10_000_000)
    data = json.dumps(body).encode()
    decoded = decoder.decode(Delivery("ack", "1", data, {}, datetime(2026, 1, 1, tzinfo=UTC), None))
    assert isinstance(decoded, Job)
    return decoded.result_id


# ------------------------------------------------------------------------------- what the fuzzer found


def test_every_input_of_the_committed_corpus_keeps_the_promise() -> None:
    files = sorted(CORPUS.iterdir())
    kinds = {check(file.read_bytes()) for file in files}

    assert kinds >= {"job", "malformed", "invalid"}
    assert sum(file.stat().st_size for file in files) < 200_000, "a corpus is small"
