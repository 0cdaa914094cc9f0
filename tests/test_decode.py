"""From a delivery to a job: requests, named pipelines, notifications, and whatever is none of these."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consumer.broker import Delivery
from consumer.decode import OUTPUT_MARK, Decoder, Ignored, Known, Notified, known_of
from consumer.errors import MalformedMessage
from consumer.jobs import Job, Source
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.presets import InvalidPresets, load_presets, parse_presets
from consumer.routes import InvalidRoutes, is_our_own, parse_routes
from contracts.builders import pipeline, step
from pipeline_steps.loading import load_steps

SESSION = UUID("0d9f6a52-5a0e-4b58-9f6e-0f6a0d9f6a52")
IMAGE = UUID("7c1e2f34-9b1d-4c3a-8a57-7c1e2f347c1e")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUEST: dict[str, Any] = {
    "tenant_id": "acme",
    "session_id": str(SESSION),
    "image_id": str(IMAGE),
    "image_url": "gs://nursery-photos/acme/originals/bed.jpg",
    "pipeline_definition": {"steps": [{"type": "step", "name": "detection"}]},
}
NAMED = {**{key: REQUEST[key] for key in list(REQUEST)[:4]}, "pipeline": "DETECTION", "options": None}
NOTIFICATION = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "nursery-photos",
    "objectId": "acme/originals/bed.jpg",
    "objectGeneration": "17",
    "payloadFormat": "JSON_API_V1",
}
PRESETS = load_presets()
ROUTES = parse_routes(
    {
        "routes": [
            {
                "bucket": "nursery-photos",
                "prefix": "{tenant_id}/originals/",
                "match": r".*\.(jpg|jpeg|png)",
                "pipeline": {"steps": [{"type": "step", "name": "detection"}]},
                "settings": {"pipeline_name": "dropped"},
            },
            {
                "bucket": "nursery-photos",
                "prefix": "incoming/{tenant_id}",
                "pipeline": {"steps": []},
                "callback": False,
            },
            {
                "bucket": "other-photos",
                "prefix": "{tenant_id}/",
                "pipeline": {"steps": []},
                "callback": "https://backend.example.com/results",
            },
        ]
    },
    "routes.yaml",
)
DECODER = Decoder(PRESETS, ROUTES, max_bytes=1_000_000)


def delivery(content: Any = b"", attributes: Mapping[str, str] | None = None) -> Delivery:
    data = content if isinstance(content, bytes) else orjson.dumps(content)
    return Delivery("ack-1", "message-1", data, attributes or {}, datetime(2025, 4, 1, tzinfo=UTC), None)


def job(content: Any, attributes: Mapping[str, str] | None = None) -> Job:
    decoded = DECODER.decode(delivery(content, attributes))
    assert isinstance(decoded, Job)
    return decoded


def problems(content: Any, attributes: Mapping[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(MalformedMessage) as refused:
        DECODER.decode(delivery(content, attributes))
    return {problem.path: problem.message for problem in refused.value.problems}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in REQUEST.items() if name != key}


class TestRequests:
    def test_a_request_becomes_a_job(self) -> None:
        made = job(
            {**REQUEST, "settings": {"species": ["ficus"]}, "callback_url": "https://b.example/results"}
        )

        assert (made.ids.tenant_id, made.ids.session_id, made.ids.image_id) == ("acme", SESSION, IMAGE)
        assert made.source == Source("nursery-photos", "acme/originals/bed.jpg", None)
        assert made.definition == pipeline(step("detection"))
        assert made.settings == {"species": ["ficus"]}
        assert (made.callback_url, made.wants_callback) == ("https://b.example/results", True)
        assert (made.warnings, made.replay_count, made.trace_parent) == ((), 0, None)

    def test_the_steps_are_told_whose_photo_it_is(self) -> None:
        info = job(REQUEST).info

        assert (info.tenant_id, info.session_id, info.image_id) == ("acme", str(SESSION), str(IMAGE))
        assert info.source_url == REQUEST["image_url"]

    def test_the_pipelines_name_comes_from_the_settings(self) -> None:
        assert job({**REQUEST, "settings": {"pipeline_name": "beds"}}).pipeline_name == "beds"
        assert job({**REQUEST, "settings": {"pipeline_name": 5}}).pipeline_name is None
        assert job(REQUEST).pipeline_name is None

    def test_settings_that_are_null_are_no_settings(self) -> None:
        assert job({**REQUEST, "settings": None}).settings == {}
        assert job({**REQUEST, "settings": None}).result_id == job(REQUEST).result_id

    def test_unknown_top_level_keys_are_reported_and_not_fatal(self) -> None:
        made = job({**REQUEST, "priority": 1, "depot": "north"})

        assert made.warnings == ("depot: unknown key, not read", "priority: unknown key, not read")

    def test_of_very_many_unknown_keys_only_some_are_named(self) -> None:
        made = job({**REQUEST, **{f"key-{i:03}-{'x' * 100}": 1 for i in range(500)}})

        assert len(made.warnings) == 21
        assert made.warnings[-1] == "...: 480 more unknown keys, not read"
        assert max(map(len, made.warnings)) < 120

    @pytest.mark.parametrize(
        "key", ["tenant_id", "session_id", "image_id", "image_url", "pipeline_definition"]
    )
    def test_what_is_missing_is_named(self, key: str) -> None:
        assert problems(without(key)) == {key: "required, but missing"}

    def test_every_problem_is_told_at_once_with_its_path(self) -> None:
        definition = {
            "steps": [{"type": "step", "name": "detection", "retires": 1}, {"type": "grop", "steps": []}]
        }

        found = problems(
            {"tenant_id": "../u", "session_id": 7, "image_url": "x", "pipeline_definition": definition}
        )

        assert set(found) == {
            "tenant_id",
            "session_id",
            "image_id",
            "image_url",
            "pipeline_definition.steps.0.retires",
            "pipeline_definition.steps.1.type",
        }
        assert found["pipeline_definition.steps.0.retires"] == "unknown key; did you mean 'retries'?"
        assert found["pipeline_definition.steps.1.type"] == "unknown type 'grop'; did you mean 'group'?"

    def test_neither_envelope_nor_limits_hide_what_is_wrong_with_the_pipeline(self) -> None:
        wrong = {"steps": [{"type": "step", "name": "detection", "retires": 1}] * 513, "kind": 1}

        found = problems(
            {**REQUEST, "tenant_id": "x" * 65, "settings": {"a": "x" * 70_000}}
            | {"pipeline_definition": wrong}
        )

        assert list(found)[:4] == [
            "tenant_id",
            "settings",
            "pipeline_definition.steps",
            "pipeline_definition.steps.0.retires",
        ]

    @pytest.mark.parametrize(
        ("key", "misspelt"),
        [("session_id", "sesion_id"), ("image_id", "imageId"), ("pipeline_definition", "pipeline_defintion")],
    )
    def test_a_misspelt_key_of_the_envelope_gets_the_nearest(self, key: str, misspelt: str) -> None:
        assert problems({**without(key), misspelt: REQUEST[key]}) == {
            misspelt: f"unknown key; did you mean {key!r}?"
        }

    def test_what_a_misspelt_key_holds_is_checked_at_its_place(self) -> None:
        found = problems({**without("pipeline_definition"), "pipeline_definitions": {"steps": [7]}})

        assert list(found) == ["pipeline_definitions", "pipeline_definitions.steps.0"]

    def test_an_optional_key_that_is_misspelt_is_a_warning_with_a_hint(self) -> None:
        assert job({**REQUEST, "setings": {}, "depot": "x"}).warnings == (
            "depot: unknown key, not read",
            "setings: unknown key, not read; did you mean 'settings'?",
        )

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b'{"tenant_id": "acme",}', "not JSON"),
            (b"\xff\xfe{}", "not JSON"),
            (b'{"a": NaN}', "not JSON"),
            (b'{"a": 1e999}', "not JSON"),
            (b'"\\ud800"', "not JSON"),
            (b"[" * 5000, "not JSON"),
            (b"null", "expected a JSON object, got NoneType"),
            (b"[]", "expected a JSON object, got list"),
            (b'"a request"', "expected a JSON object, got str"),
        ],
    )
    def test_what_is_no_json_object_is_told_so(self, data: bytes, expected: str) -> None:
        [(path, message)] = problems(data).items()

        assert path == "(message)"
        assert message.startswith(expected)

    def test_a_message_over_the_limit_is_not_even_read(self) -> None:
        assert problems(b" " * 1_000_001) == {
            "(message)": "1000001 bytes; at most 1000000 are read (MAX_MESSAGE_BYTES)"
        }

    def test_a_definition_over_its_limits_is_told_which(self) -> None:
        def chains(depth: int) -> dict[str, Any]:
            element: dict[str, Any] = {"type": "step", "name": "detection"}
            for _ in range(depth):
                element = {"type": "chain", "steps": [element]}
            return {"steps": [element]}

        too_deep = "elements are nested more than 32 deep"

        assert problems({**REQUEST, "pipeline_definition": chains(40)}) == {
            "pipeline_definition.steps": too_deep
        }
        assert problems({**REQUEST, "pipeline_definition": chains(120)}) == {
            "pipeline_definition.steps": too_deep
        }
        assert (
            "513 elements"
            in problems(
                {**REQUEST, "pipeline_definition": {"steps": [{"type": "step", "name": "count"}] * 513}}
            )["pipeline_definition.steps"]
        )

    def test_settings_are_limited_too(self) -> None:
        assert problems({**REQUEST, "settings": {"species": ["ficus"] * 40_000}}) == {
            "settings": "320013 bytes of JSON; at most 65536 are allowed"
        }

    def test_of_very_many_problems_only_the_first_are_told(self) -> None:
        found = problems({**REQUEST, "pipeline_definition": {"steps": list(range(500))}})

        assert len(found) == 101
        assert found["pipeline_definition.steps.99"].startswith("should be")
        assert found["pipeline_definition"] == "more may be wrong than is named here"

    @pytest.mark.parametrize("name", ["x" * 100_000, "-eyJaaaaaaaa" * 9_000, "https://" * 12_000])
    def test_a_key_of_any_length_makes_no_long_problem(self, name: str) -> None:
        """What is told of a message is searched for secrets, which takes long in a very long word."""
        definition = {"steps": [{"type": "step", "name": "detection", name: 1}, {"type": name}]}

        for path, message in problems({**REQUEST, "pipeline_definition": definition}).items():
            assert path.startswith("pipeline_definition.steps.")
            assert max(len(path), len(message)) < 1010

    def test_elements_in_their_millions_are_not_walked_through(self) -> None:
        steps = b"[%s{}]" % (b"{}," * 300_000)
        data = (
            orjson.dumps(without("pipeline_definition"))[:-1]
            + b',"pipeline_definition":{"steps":%s}}' % steps
        )

        found = problems(data)

        assert found["pipeline_definition.steps"] == "at least 300001 elements; at most 512 are allowed"
        assert found["pipeline_definition"] == "more may be wrong than is named here"
        assert len(found) == 102

    @pytest.mark.parametrize("depth", [250, 300, 900, 1020])
    @pytest.mark.parametrize("key", ["tenant_id", "settings", "pipeline_definition", "callback_url", "new"])
    def test_no_nesting_that_json_allows_is_too_deep_to_be_refused(self, key: str, depth: int) -> None:
        rest = orjson.dumps(without(key))[:-1]
        data = b'%s, "%s": {"a": %s%s}}' % (rest, key.encode(), b"[" * depth, b"]" * depth)

        try:
            decoded = DECODER.decode(delivery(data))
        except MalformedMessage as error:
            assert error.problems  # noqa: PT017 (either end is right, only not another error)
        else:
            assert isinstance(decoded, Job)

    @pytest.mark.parametrize("depth", [250, 900])
    def test_nor_is_it_inside_kwargs(self, depth: int) -> None:
        kwargs = b'{"a": %s%s}' % (b"[" * depth, b"]" * depth)
        data = orjson.dumps(REQUEST).replace(b'"name":"detection"', b'"name":"detection","kwargs":' + kwargs)

        assert list(problems(data)) in (["pipeline_definition.steps"], ["(message)"])


class TestAttributes:
    @pytest.mark.parametrize("name", ["traceparent", "googclient_traceparent"])
    def test_a_trace_is_taken_along(self, name: str) -> None:
        assert job(REQUEST, {name: TRACE}).trace_parent == TRACE

    def test_our_own_trace_counts_before_the_clients(self) -> None:
        other = TRACE.replace("4bf9", "0000")

        assert job(REQUEST, {"traceparent": TRACE, "googclient_traceparent": other}).trace_parent == TRACE
        assert job(REQUEST, {"traceparent": "?", "googclient_traceparent": other}).trace_parent == other

    @pytest.mark.parametrize(
        "value",
        ["", "abc", TRACE + "\r\nX-Tenant-ID: other", TRACE.upper(), f" {TRACE}", "ñ" * 55, TRACE + "-00"],
    )
    def test_what_is_no_trace_never_becomes_a_header(self, value: str) -> None:
        assert job(REQUEST, {"traceparent": value}).trace_parent is None

    @pytest.mark.parametrize(
        ("value", "count"), [("0", 0), ("3", 3), ("", 0), ("-1", 0), ("x", 0), ("9" * 50, 0), ("1.5", 0)]
    )
    def test_replays_are_counted_where_that_can_be_read(self, value: str, count: int) -> None:
        assert job(REQUEST, {"mlworker-replay-count": value}).replay_count == count

    def test_a_forced_message_is_a_piece_of_work_of_its_own(self) -> None:
        forced = job(REQUEST, {"mlworker-force": "1"})

        assert forced.result_id != job(REQUEST).result_id
        assert forced.result_id == job(REQUEST, {"mlworker-force": "true"}).result_id
        assert job(REQUEST, {"mlworker-force": "0"}).result_id == job(REQUEST).result_id


class TestNamedPipelines:
    def test_a_name_stands_for_a_preset(self) -> None:
        made = job({**NAMED, "pipeline": "FULL_PIPELINE"})

        assert made.definition == PRESETS.by_name["FULL_PIPELINE"].definition
        assert (made.pipeline_name, made.warnings) == ("FULL_PIPELINE", ())

    def test_an_unknown_name_gets_the_nearest(self) -> None:
        assert problems({**NAMED, "pipeline": "FULL_PIPLINE"}) == {
            "pipeline": "no preset is named 'FULL_PIPLINE'; did you mean 'FULL_PIPELINE'?"
        }

    def test_a_definition_counts_before_a_name(self) -> None:
        made = job({**NAMED, **REQUEST})

        assert made.definition == pipeline(step("detection"))
        assert made.warnings == ("options: unknown key, not read", "pipeline: unknown key, not read")

    def test_a_confidence_override_reaches_every_detection(self) -> None:
        made = job({**NAMED, "options": {"confidence_override": 0.35}})

        assert made.definition.steps[0] == step("detection", confidence=0.35)
        assert made.definition.steps[1:] == PRESETS.by_name["DETECTION"].definition.steps[1:]
        assert made.warnings == ()

    def test_it_reaches_detections_deep_inside_a_preset(self) -> None:
        nested = {
            "pipelines": {
                "DEEP": [
                    "segmentation",
                    {
                        "type": "chord",
                        "group": {
                            "steps": [
                                {"type": "step", "name": "sahi_detection", "kwargs": {"segment_type": "bed"}},
                                {"type": "chain", "steps": [{"type": "step", "name": "detection"}]},
                            ]
                        },
                        "callback": {"name": "aggregate_detections"},
                    },
                    {"type": "map", "over": "segments", "body": {"type": "step", "name": "detection"}},
                ]
            }
        }
        decoder = Decoder(parse_presets(nested, "deep"), ROUTES, 10_000)

        made = decoder.decode(delivery({**NAMED, "pipeline": "DEEP", "options": {"confidence_override": 1}}))

        assert isinstance(made, Job)
        kwargs = orjson.loads(made.definition.model_dump_json())
        chord, mapped = kwargs["steps"][1], kwargs["steps"][2]
        assert chord["group"]["steps"][0]["kwargs"] == {"segment_type": "bed", "confidence": 1}
        assert chord["group"]["steps"][1]["steps"][0]["kwargs"] == {"confidence": 1}
        assert chord["callback"]["kwargs"] == {}
        assert mapped["body"]["kwargs"] == {"confidence": 1}

    def test_an_override_that_nothing_reads_is_reported(self) -> None:
        made = job({**NAMED, "pipeline": "SEGMENTATION", "options": {"confidence_override": 0.5}})

        assert made.warnings == ("options.confidence_override: unknown key, not read",)

    @pytest.mark.parametrize("value", ["0.5", True, [], {}, -0.1, 1.1, 1e300])
    def test_an_override_is_a_number_from_0_to_1(self, value: Any) -> None:
        [(path, message)] = problems({**NAMED, "options": {"confidence_override": value}}).items()

        assert path == "options.confidence_override"
        assert message.startswith("should be a number from 0 to 1, got ")

    def test_no_override_and_other_options_change_nothing(self) -> None:
        plain = job(NAMED)

        assert job({**NAMED, "options": {}}).result_id == plain.result_id
        assert job({**NAMED, "options": {"confidence_override": None}}).result_id == plain.result_id
        assert job({**NAMED, "options": {"colour": "red"}}).warnings == (
            "options.colour: unknown key, not read",
        )

    def test_an_override_is_another_piece_of_work(self) -> None:
        ids = {
            job({**NAMED, "options": options}).result_id
            for options in (None, {"confidence_override": 0.3}, {"confidence_override": 0.4})
        }

        assert len(ids) == 3

    def test_envelope_preset_and_options_hide_nothing_of_each_other(self) -> None:
        found = problems(
            {
                **NAMED,
                "tenant_id": "../u",
                "pipeline": "DETECTON",
                "options": {"confidence_override": 5},
            }
        )

        assert list(found) == ["tenant_id", "pipeline", "options.confidence_override"]

    def test_its_other_fields_are_checked_as_a_requests_are(self) -> None:
        assert set(problems({**NAMED, "tenant_id": "models", "pipeline": 5, "image_url": None})) == {
            "tenant_id",
            "pipeline",
            "image_url",
        }


class TestNotifications:
    def test_a_photo_under_a_route_starts_work(self) -> None:
        seen = DECODER.decode(delivery(b"{anything", NOTIFICATION))

        assert isinstance(seen, Notified)
        assert (seen.notification.bucket, seen.notification.name) == (
            "nursery-photos",
            "acme/originals/bed.jpg",
        )
        assert seen.notification.generation == 17

    @pytest.mark.parametrize(
        "event",
        [
            "OBJECT_DELETE",
            "OBJECT_ARCHIVE",
            "OBJECT_METADATA_UPDATE",
            "OBJECT_INITIALIZE",
            "OBJECT_SOMETHING",
        ],
    )
    def test_other_events_start_nothing(self, event: str) -> None:
        assert DECODER.decode(delivery(b"", {**NOTIFICATION, "eventType": event})) == Ignored("other_event")

    @pytest.mark.parametrize(
        ("bucket", "name"),
        [
            ("nursery-photos", "acme/uploads/bed.jpg"),
            ("nursery-photos", "acme/originals/bed.tiff"),
            ("nursery-photos", "acme/originals/bed.jpg.part"),
            ("nursery-photos", "acme/b/originals/bed.jpg"),
            ("nursery-photos", "originals/bed.jpg"),
            ("nursery-photos", "/originals/bed.jpg"),
            ("foreign-photos", "acme/originals/bed.jpg"),
            ("nursery-photos", "xincoming/acme/bed.jpg"),
        ],
    )
    def test_an_object_under_no_route_starts_nothing(self, bucket: str, name: str) -> None:
        attributes = {**NOTIFICATION, "bucketId": bucket, "objectId": name}

        assert DECODER.decode(delivery(b"", attributes)) == Ignored("no_route")

    @pytest.mark.parametrize(
        "name",
        [
            "acme/processed/x.jpg",
            "acme/originals_thumbnails/x_256.jpg",
            "acme/results/s/i/r.json",
            "acme/originals/results/x.jpg",
            "models/plants.jpg",
            "dead-letters/1.jpg",
            "acme/originals/",
            "acme/originals/new folder/",
        ],
    )
    def test_what_the_worker_writes_and_folders_start_nothing(self, name: str) -> None:
        assert is_our_own(name)
        assert DECODER.decode(delivery(b"", {**NOTIFICATION, "objectId": name})) == Ignored("own_folder")

    @pytest.mark.parametrize("name", ["acme/originals/models.jpg", "results2/originals/x.jpg", "acme/a/x"])
    def test_names_that_only_look_like_the_workers_are_not(self, name: str) -> None:
        assert not is_our_own(name)

    @pytest.mark.parametrize(
        ("attributes", "path"),
        [
            ({"objectId": ""}, "objectId"),
            ({"objectGeneration": "soon"}, "objectGeneration"),
            ({"objectGeneration": "0"}, "objectGeneration"),
            ({"objectGeneration": "-1"}, "objectGeneration"),
            ({"objectGeneration": str(2**63)}, "objectGeneration"),
            ({"objectGeneration": "9" * 400}, "objectGeneration"),
            ({"bucketId": "b"}, "bucketId"),
            ({"objectId": "x" * 1025}, "objectId"),
        ],
    )
    def test_a_notification_that_cannot_be_read_says_where(
        self, attributes: dict[str, str], path: str
    ) -> None:
        assert list(problems(b"", {**NOTIFICATION, **attributes})) == [path]

    def test_a_missing_attribute_is_named(self) -> None:
        attributes = {name: value for name, value in NOTIFICATION.items() if name != "objectId"}

        assert problems(b"", attributes) == {"objectId": "required, but missing"}

    def test_a_request_with_only_some_of_these_attributes_is_a_request(self) -> None:
        assert isinstance(DECODER.decode(delivery(REQUEST, {"eventType": "PHOTO_TAKEN"})), Job)


class TestJobsOfNotifications:
    def of(self, metadata: Mapping[str, str] | None = None, **attributes: str) -> Job | Ignored:
        noticed = delivery(b"", {**NOTIFICATION, **attributes})
        seen = DECODER.decode(noticed)
        assert isinstance(seen, Notified)
        return DECODER.job_of(seen.notification, metadata or {}, noticed)

    def job(self, metadata: Mapping[str, str] | None = None, **attributes: str) -> Job:
        made = self.of(metadata, **attributes)
        assert isinstance(made, Job)
        return made

    def test_the_path_names_the_tenant_and_the_route_the_rest(self) -> None:
        made = self.job()

        assert made.ids.tenant_id == "acme"
        assert made.source == Source("nursery-photos", "acme/originals/bed.jpg", 17)
        assert made.definition == pipeline(step("detection"))
        assert (made.callback_url, made.wants_callback, made.pipeline_name) == (None, True, "dropped")

    def test_a_route_may_want_no_callback_or_one_elsewhere(self) -> None:
        silent = self.job(objectId="incoming/acme/bed.jpg")
        elsewhere = self.job(bucketId="other-photos", objectId="acme/bed.jpg")

        assert silent.wants_callback is False
        assert elsewhere.callback_url == "https://backend.example.com/results"

    def test_ids_come_from_the_objects_metadata(self) -> None:
        ids = self.job({"session_id": str(SESSION), "image_id": str(IMAGE)}).ids

        assert (ids.session_id, ids.image_id) == (SESSION, IMAGE)

    @pytest.mark.parametrize("metadata", [{}, {"session_id": "", "image_id": "bed 7"}])
    def test_else_they_are_made_from_the_generation_and_always_the_same(
        self, metadata: dict[str, str]
    ) -> None:
        ids = self.job(metadata).ids

        assert ids == self.job().ids
        assert ids.session_id != ids.image_id
        assert ids.session_id.version == 5
        assert ids.session_id != self.job(objectGeneration="18").ids.session_id
        assert ids.image_id != self.job(objectId="acme/originals/other.jpg").ids.image_id

    def test_an_object_of_the_workers_own_starts_nothing(self) -> None:
        mark = {OUTPUT_MARK: "nursery-photos/acme/originals/bed.jpg"}

        assert self.of(mark) == Ignored("own_output")

    def test_a_persons_copy_of_the_workers_output_is_a_photo_like_any_other(self) -> None:
        copied_with_its_metadata = {OUTPUT_MARK: "nursery-photos/acme/processed/bed.jpg"}

        assert isinstance(self.of(copied_with_its_metadata), Job)

    @pytest.mark.parametrize("tenant", ["a b", "..", "originals", "-x", "x" * 65])
    def test_a_folder_that_can_be_no_tenants_is_refused(self, tenant: str) -> None:
        with pytest.raises(MalformedMessage) as refused:
            self.of(bucketId="other-photos", objectId=f"{tenant}/bed.jpg")

        assert [problem.path for problem in refused.value.problems] == ["objectId"]

    def test_a_replaced_photo_is_another_piece_of_work(self) -> None:
        assert self.job().result_id != self.job(objectGeneration="18").result_id
        assert self.job().result_id == self.job().result_id


class TestWhatCanStillBeKnown:
    def test_of_a_message_with_ids_the_sender_can_be_told(self) -> None:
        data = orjson.dumps({**REQUEST, "pipeline_definition": 5, "callback_url": "https://b.example/x"})

        known = known_of(data)

        assert known is not None
        assert (known.ids.tenant_id, known.ids.session_id, known.ids.image_id) == ("acme", SESSION, IMAGE)
        assert known.source == Source("nursery-photos", "acme/originals/bed.jpg")
        assert known.callback_url == "https://b.example/x"

    @pytest.mark.parametrize(
        "changes", [{"tenant_id": "models"}, {"tenant_id": None}, {"session_id": "x"}, {"image_id": 5}]
    )
    def test_without_right_ids_nobody_is_told_anything(self, changes: dict[str, Any]) -> None:
        assert known_of(orjson.dumps({**REQUEST, **changes})) is None

    @pytest.mark.parametrize("url", [None, 5, "x", "gs://b", "gs://bucket/" + "x" * 2048])
    def test_without_a_right_url_at_least_the_ids_are_known(self, url: Any) -> None:
        known = known_of(orjson.dumps({**REQUEST, "image_url": url, "callback_url": 5}))

        assert isinstance(known, Known)
        assert (known.source, known.callback_url) == (None, None)

    def test_nor_is_a_callback_of_a_length_that_is_refused(self) -> None:
        known = known_of(orjson.dumps({**REQUEST, "callback_url": "https://b.example/" + "x" * 2048}))

        assert known is not None
        assert known.callback_url is None


class TestFiles:
    @pytest.mark.parametrize("content", [None, [], {}, {"pipelines": []}, "x"])
    def test_presets_are_a_mapping_of_pipelines(self, content: Any) -> None:
        with pytest.raises(InvalidPresets, match=r"^p\.yaml: expected a mapping"):
            parse_presets(content, "p.yaml")

    def test_every_wrong_preset_is_told_with_its_place(self) -> None:
        with pytest.raises(InvalidPresets) as refused:
            parse_presets(
                {
                    "pipelines": {"A": "detection", "B": [5, {"type": "step"}], "C": ["count"]},
                    "settings": {5: 6},
                },
                "p.yaml",
            )

        assert [line.partition(": ")[2].partition(":")[0] for line in str(refused.value).splitlines()] == [
            "settings.5.[key]",
            "pipelines.A.steps",
            "pipelines.B.steps.0",
            "pipelines.B.steps.1.name",
        ]

    @pytest.mark.parametrize(
        ("changes", "place"),
        [
            ({"bucket": None}, "routes.0.bucket"),
            ({"prefix": "photos/"}, "routes.0.prefix"),
            ({"prefix": "{tenant_id}/{session_id}/"}, "routes.0.prefix"),
            ({"prefix": "{tenant_id}/{tenant_id}/"}, "routes.0.prefix"),
            ({"match": "("}, "routes.0.match"),
            ({"pipeline": {"steps": [{"type": "step"}]}}, "routes.0.pipeline.steps.0.name"),
            ({"pipeline": {"steps": 5}}, "routes.0.pipeline.steps"),
            ({"callbak": True}, "routes.0.callbak"),
            ({"settings": []}, "routes.0.settings"),
        ],
    )
    def test_a_wrong_route_is_told_with_its_place(self, changes: dict[str, Any], place: str) -> None:
        route = {"bucket": "photos", "prefix": "{tenant_id}/", "pipeline": {"steps": []}}

        with pytest.raises(InvalidRoutes) as refused:
            parse_routes({"routes": [{**route, **changes}]}, "r.yaml")

        assert str(refused.value).startswith(f"r.yaml: {place}: ")

    def test_the_first_route_that_fits_is_taken(self) -> None:
        def route(prefix: str, name: str) -> dict[str, Any]:
            return {
                "bucket": "photos",
                "prefix": prefix,
                "pipeline": {"steps": []},
                "settings": {"name": name},
            }

        routes = parse_routes(
            {"routes": [route("{tenant_id}/a/", "first"), route("{tenant_id}/", "second")]}, "r.yaml"
        )

        def taken(name: str) -> Any:
            found = routes.find("photos", name)
            return found and (found[0].settings["name"], found[1])

        assert taken("acme/a/x.jpg") == ("first", "acme")
        assert taken("acme/b/x.jpg") == ("second", "acme")
        assert taken("acme/a") == ("second", "acme")
        assert taken("acme") is None

    def test_what_a_prefix_holds_is_text_and_no_pattern(self) -> None:
        route = {"bucket": "photos", "prefix": "a.b+c/{tenant_id}/", "pipeline": {"steps": []}}
        routes = parse_routes({"routes": [route]}, "r.yaml")

        assert routes.find("photos", "a.b+c/acme/x") is not None
        assert routes.find("photos", "aXbbc/acme/x") is None


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["step", "chain", "group", "chord", "map", "detection", "segments", "skip", "gs://b/c"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "steps",
                    "name",
                    "kwargs",
                    "group",
                    "callback",
                    "body",
                    "over",
                    "retries",
                    "timeout_s",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
FIELDS = (
    "tenant_id",
    "session_id",
    "image_id",
    "image_url",
    "pipeline_definition",
    "pipeline",
    "options",
    "settings",
)
MESSAGES = st.builds(
    lambda base, changes: {**base, **changes},
    st.sampled_from([REQUEST, NAMED, {}]),
    st.dictionaries(st.sampled_from([*FIELDS, "callback_url"]) | st.text(max_size=4), VALUES, max_size=3),
)
STEPS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("step"), "name": st.sampled_from(load_steps(plugins=False).names())},
        optional={
            "kwargs": st.dictionaries(
                st.sampled_from(["confidence", "model", "segment_type", "classes", "source", "mode"]), VALUES
            ),
            "retries": st.integers(0, 10),
            "timeout_s": st.floats(0.1, 1e9),
        },
    ),
    max_size=5,
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from([*NOTIFICATION, "traceparent", "mlworker-force", "mlworker-replay-count"])
    | st.text(max_size=5),
    st.sampled_from(list(NOTIFICATION.values())) | st.text(max_size=10),
    max_size=6,
)


def check_understood_or_refused(data: bytes, attributes: Mapping[str, str]) -> None:
    known_of(data)
    try:
        decoded = DECODER.decode(delivery(data, attributes))
    except MalformedMessage as error:
        assert error.problems  # noqa: PT017 (either end is right, only not another error)
        assert all(problem.path and problem.message for problem in error.problems)  # noqa: PT017
        return
    assert isinstance(decoded, Job | Notified | Ignored)
    if isinstance(decoded, Job):
        try:
            parse(decoded.definition, load_steps(plugins=False), settings=decoded.settings, models={})
        except InvalidPipeline as error:
            assert error.problems  # noqa: PT017 (either end is right, only not another error)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), ATTRIBUTES)
def test_bytes_of_any_kind_are_understood_or_refused(data: bytes, attributes: dict[str, str]) -> None:
    check_understood_or_refused(data, attributes)


@settings(deadline=None, max_examples=300)
@given(MESSAGES, ATTRIBUTES)
@example(
    {
        **REQUEST,
        "pipeline_definition": {"steps": [{"type": "step", "name": "x", "kwargs": {"a": 2**64 - 1}}]},
    },
    {},
)
def test_json_of_any_kind_is_understood_or_refused(message: Any, attributes: dict[str, str]) -> None:
    check_understood_or_refused(orjson.dumps(message), attributes)


@settings(deadline=None, max_examples=150)
@given(
    STEPS,
    st.dictionaries(st.sampled_from(["species", "sahi_slice_height", "segment_filter_classes"]), VALUES),
)
def test_real_steps_with_any_kwargs_parse_or_are_refused(steps: Any, given_settings: Any) -> None:
    message = {**REQUEST, "pipeline_definition": {"steps": steps}, "settings": given_settings}

    check_understood_or_refused(orjson.dumps(message), {})


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_request_cut_or_scratched_anywhere_is_understood_or_refused(data: st.DataObject) -> None:
    whole = bytearray(orjson.dumps(REQUEST))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))

    check_understood_or_refused(bytes(whole[: data.draw(st.integers(0, len(whole)))]), {})
