"""The callback as a real backend gets it, and what each of its answers means."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import CallbackFailed, FencedOff
from consumer.jobs import Job
from consumer.outbound.callback import (
    MAX_ANSWER,
    Backend,
    Signer,
    _retry_after,
    check_answer,
    hmac_signer,
    nothing_to_check,
    unsigned,
)
from consumer.outbound.hosts import AllowedHosts
from consumer.outbound.pinned import PinnedTransport
from contracts.failure import FailureClass
from contracts.result import ProcessingResult
from tests.contracts.samples import FAILED, IMAGE, RESULT, RESULT_ID, SESSION
from tests.outbound.backend import Call, SmallBackend, serving
from tests.outbound.deliveries import JOB, TRACE, job

RESULTS, ERROR = "/api/v1/processing-callback/results", "/api/v1/processing-callback/error"
LEGACY = "/api/v1/ml/callback"


@pytest.fixture
def backend() -> Iterator[SmallBackend]:
    with serving() as small:
        yield small


def deliver(
    to: SmallBackend | str,
    what: ProcessingResult = RESULT,
    *,
    for_job: Job = JOB,
    base: str | None = "here",
    timeout: float = 10.0,
    sign: Signer = unsigned,
    check: Callable[[], Awaitable[None]] = nothing_to_check,
) -> None:
    """POST once to the backend, as the worker does it in local mode."""
    url = to if isinstance(to, str) else to.url

    async def once() -> None:
        hosts = AllowedHosts.of([url], allow_loopback=True)
        async with PinnedTransport(hosts) as transport:
            backend = Backend(transport, timeout, url if base == "here" else base, hosts, sign)
            await backend.deliver(for_job, what, check)

    asyncio.run(once())


def failure(*args: Any, **kwargs: Any) -> CallbackFailed:
    with pytest.raises(CallbackFailed) as failed:
        deliver(*args, **kwargs)
    return failed.value


def only_call(backend: SmallBackend) -> Call:
    [call] = backend.calls
    return call


class TestBodies:
    def test_a_result_goes_to_results(self, backend: SmallBackend) -> None:
        deliver(backend)

        call = only_call(backend)
        assert call.path == RESULTS
        assert call.body == {
            "sessionId": str(SESSION),
            "imageId": str(IMAGE),
            "detections": [
                {
                    "label": "plant",
                    "confidence": 0.9488,
                    "boundingBox": {"x1": 100.0, "y1": 50.25, "x2": 160.0, "y2": 110.0},
                },
                {
                    "label": "planta ñandú",
                    "confidence": 0.5,
                    "boundingBox": {"x1": 3900.0, "y1": 0.0, "x2": 4000.0, "y2": 90.0},
                },
            ],
            "classifications": [
                {"label": "ficus", "confidence": 1.0, "detectionId": None},
                {"label": "wet", "confidence": 0.61, "detectionId": None},
            ],
            "estimations": [
                {"estimationType": "total_count", "value": 2.0, "unit": "units", "confidence": None},
                {"estimationType": "coverage_percent", "value": 0.0625, "unit": "percent", "confidence": 0.9},
            ],
            "metadata": {
                "pipeline": "beds",
                "processingTimeMs": 4250,
                "modelVersion": "plants@1",
                "workerVersion": "0.1.0",
            },
        }

    def test_a_failure_goes_to_error(self, backend: SmallBackend) -> None:
        deliver(backend, FAILED)

        call = only_call(backend)
        assert call.path == ERROR
        assert call.body == {
            "sessionId": str(SESSION),
            "imageId": str(IMAGE),
            "errorMessage": "not a picture",
            "errorType": "ProcessingError",
        }

    @pytest.mark.parametrize("what", [RESULT, FAILED.model_copy(update={"finished_at": RESULT.finished_at})])
    def test_the_older_address_gets_the_older_body_for_both(
        self, backend: SmallBackend, what: ProcessingResult
    ) -> None:
        deliver(backend, what, for_job=job(callback_url=backend.url + LEGACY, pipeline_name="DETECTION"))

        call = only_call(backend)
        failed = what.status == "failed"
        detection = {
            "className": "plant",
            "confidence": 0.9488,
            "x1": 100.0,
            "y1": 50.25,
            "x2": 160.0,
            "y2": 110.0,
        }
        assert call.path == LEGACY
        assert call.body["detections"][:1] == ([] if failed else [detection])
        assert {**call.body, "detections": None} == {
            "sessionId": str(SESSION),
            "imageId": str(IMAGE),
            "success": not failed,
            "pipeline": "DETECTION",
            "durationMs": 4250,
            "detections": None,
            "error": "not a picture" if failed else "",
        }

    def test_what_is_longer_than_its_column_is_cut(self, backend: SmallBackend) -> None:
        detection = RESULT.detections[0].model_copy(update={"label": "ñ" * 300})

        deliver(backend, RESULT.model_copy(update={"detections": (detection,)}))

        assert only_call(backend).body["detections"][0]["label"] == "ñ" * 255

    def test_no_findings_are_empty_lists(self, backend: SmallBackend) -> None:
        nothing = {"detections": (), "classifications": (), "estimations": (), "models": ()}

        deliver(backend, RESULT.model_copy(update=nothing), for_job=job(pipeline_name=None))

        body = only_call(backend).body
        assert (body["detections"], body["classifications"], body["estimations"]) == ([], [], [])
        assert (body["metadata"]["pipeline"], body["metadata"]["modelVersion"]) == (None, None)


class TestAddresses:
    @pytest.mark.parametrize(
        ("callback", "what", "path"),
        [
            ("/custom/results", RESULT, "/custom/results"),
            ("/custom/results", FAILED, "/custom/error"),
            ("/custom", RESULT, "/custom"),
            ("/custom", FAILED, "/custom"),
            ("/results?key=1", FAILED, "/results?key=1"),
            ("/a%20b/results", FAILED, "/a%20b/error"),
            ("/hook?next=/results", FAILED, "/hook?next=/results"),
        ],
    )
    def test_a_messages_own_address_is_used_as_it_is(
        self, backend: SmallBackend, callback: str, what: ProcessingResult, path: str
    ) -> None:
        deliver(backend, what, for_job=job(callback_url=backend.url + callback), base=None)

        assert only_call(backend).path == path

    def test_a_host_whose_name_is_results_is_no_path(self) -> None:
        here = Backend(httpx.AsyncHTTPTransport(), 1, None, AllowedHosts(()))

        assert here.url(job(callback_url="https://results"), "error") == "https://results"

    def test_a_slash_at_the_end_of_the_backends_address_does_not_matter(self, backend: SmallBackend) -> None:
        deliver(backend, base=f"{backend.url}/")

        assert only_call(backend).path == RESULTS

    def test_whoever_wants_no_callback_gets_none(self, backend: SmallBackend) -> None:
        deliver(backend, for_job=job(wants_callback=False))
        deliver(backend, for_job=job(wants_callback=False, callback_url=backend.url))

        assert backend.calls == []

    def test_without_any_address_there_is_none_either(self, backend: SmallBackend) -> None:
        deliver(backend, base=None)

        assert backend.calls == []

    @pytest.mark.parametrize(
        "url",
        [
            "https://elsewhere.example/results",
            "http://[::1",
            "http://127.0.0.1\\@evil.example/",
            "http://user:secret@127.0.0.1/",
            "ftp://127.0.0.1/",
            "javascript:alert(1)",
            "http://127.0.0.1/half-a-pair-\ud800",
            "https://",
            "/results",
            "\n",
            "",
        ],
    )
    def test_an_address_that_is_not_allowed_is_the_messages_own_fault(
        self, backend: SmallBackend, url: str
    ) -> None:
        failed = failure(backend, for_job=job(callback_url=url))

        assert (failed.failure_class, failed.outage) == (FailureClass.PERMANENT, False)
        assert "secret" not in str(failed)
        assert backend.calls == []

    def test_whether_it_is_allowed_can_be_asked_before_anything_runs(self, backend: SmallBackend) -> None:
        hosts = AllowedHosts.of([backend.url], allow_loopback=True)
        here = Backend(httpx.AsyncHTTPTransport(), 1, backend.url, hosts)

        here.check(job(callback_url=None))
        here.check(job(callback_url=backend.url + "/results"))
        for url in ("https://elsewhere.example/", "http://[::1"):
            with pytest.raises(CallbackFailed):
                here.check(job(callback_url=url))

    def test_jobs_that_call_the_same_host_share_a_destination(self) -> None:
        here = Backend(httpx.AsyncHTTPTransport(), 1, "https://b.example:8443/base", AllowedHosts(()))

        def destination(url: str | None) -> str:
            return here.destination(job(callback_url=url))

        assert destination(None) == destination("https://B.example/results") == "callback b.example"
        assert destination("https://other.example/") == "callback other.example"
        assert destination("http://[::1") == "callback"


class TestHeaders:
    def test_a_call_says_whose_it_is_and_what_it_is(self, backend: SmallBackend) -> None:
        deliver(backend, for_job=job(trace_parent=TRACE))

        headers = only_call(backend).headers
        assert headers["content-type"] == "application/json"
        assert headers["x-tenant-id"] == "acme"
        assert headers["x-mlworker-event"] == "result"
        assert headers["idempotency-key"] == RESULT_ID
        assert headers["traceparent"] == TRACE
        assert "authorization" not in headers

    def test_an_error_says_so_under_the_same_key(self, backend: SmallBackend) -> None:
        deliver(backend, FAILED)

        headers = only_call(backend).headers
        assert (headers["x-mlworker-event"], headers["idempotency-key"]) == ("error", RESULT_ID)
        assert "traceparent" not in headers

    def test_a_signature_can_be_checked_with_the_shared_key(self, backend: SmallBackend) -> None:
        deliver(backend, sign=hmac_signer(b"the key", clock=lambda: 1743489000.9))

        call = only_call(backend)
        assert call.headers["x-mlworker-timestamp"] == "1743489000"
        expected = hmac.new(b"the key", b"1743489000." + call.content, hashlib.sha256).hexdigest()
        assert call.headers["x-mlworker-signature"] == f"sha256={expected}"

    def test_a_signature_is_that_of_the_bytes_sent(self, backend: SmallBackend) -> None:
        sign = hmac_signer(b"the key", clock=lambda: 0)
        deliver(backend, sign=sign)
        deliver(backend, FAILED, sign=sign)

        first, second = backend.calls
        assert first.headers["x-mlworker-signature"] != second.headers["x-mlworker-signature"]
        again = asyncio.run(_signed(sign, first.content))
        assert again["X-MLWorker-Signature"] == first.headers["x-mlworker-signature"]


async def _signed(sign: Signer, body: bytes) -> dict[str, str]:
    return dict(await sign("", body))


def test_whether_it_may_be_sent_is_asked_last_when_a_token_was_waited_for(backend: SmallBackend) -> None:
    said: list[str] = []

    async def sign(url: str, body: bytes) -> Mapping[str, str]:
        said.append("signed")
        return {}

    async def check() -> None:
        said.append("checked")
        raise FencedOff("the lease is over")

    with pytest.raises(FencedOff):
        deliver(backend, sign=sign, check=check)

    assert said == ["signed", "checked"]
    assert backend.calls == []


class TestWhatIsQuoted:
    """An error repeats the start of an answer, and an answer may repeat what it was sent."""

    def test_our_signature_is_cut_out_however_it_is_repeated(self, backend: SmallBackend) -> None:
        digest = hmac.new(b"the key", b"1743489000.", hashlib.sha256).hexdigest()
        backend.status = 500

        for shown in (f'{{"X-MLWorker-Signature": "sha256={digest}"}}', f"bad signature {digest}!"):
            backend.answer = shown.encode()
            failed = failure(backend, sign=_constantly({"X-MLWorker-Signature": f"sha256={digest}"}))
            assert digest not in str(failed)
            assert "[hidden]" in str(failed)

    @pytest.mark.parametrize("before", ["", "x" * 280, "x" * 299])
    def test_a_token_is_cut_out_whole_also_where_the_quote_ends(
        self, backend: SmallBackend, before: str
    ) -> None:
        token = "opaque-token-of-another-kind-" + "k" * 900
        backend.status, backend.answer = 500, f"{before}{token} is not yours".encode()

        failed = failure(backend, sign=_constantly({"Authorization": f"Bearer {token}"}))

        assert "kkkk" not in str(failed)
        assert "opaque" not in str(failed)

    def test_the_urls_query_is_cut_out(self, backend: SmallBackend) -> None:
        url = f"{backend.url}/hook?key=s3cr3t-of-theirs&x=1"
        backend.status, backend.answer = 500, b"POST /hook?key=s3cr3t-of-theirs&x=1: s3cr3t-of-theirs is old"

        failed = failure(backend, for_job=job(callback_url=url))

        assert str(failed) == "127.0.0.1 answered 500: POST /hook?[hidden]: [hidden] is old"

    def test_an_answer_is_asked_for_in_plain_text(self, backend: SmallBackend) -> None:
        deliver(backend)

        assert only_call(backend).headers["accept-encoding"] == "identity"


def _constantly(headers: dict[str, str]) -> Signer:
    async def sign(url: str, body: bytes) -> dict[str, str]:
        return headers

    return sign


TRANSIENT, OUTAGE = (FailureClass.TRANSIENT, False), (FailureClass.TRANSIENT, True)
PERMANENT, CONFIGURATION = (FailureClass.PERMANENT, False), (FailureClass.CONFIGURATION, False)
MEANING = {
    400: PERMANENT,
    401: CONFIGURATION,
    402: PERMANENT,
    403: CONFIGURATION,
    404: (FailureClass.NOT_FOUND, False),
    405: CONFIGURATION,
    406: PERMANENT,
    408: TRANSIENT,
    410: PERMANENT,
    413: PERMANENT,
    415: PERMANENT,
    422: PERMANENT,
    425: TRANSIENT,
    429: TRANSIENT,
    301: CONFIGURATION,
    302: CONFIGURATION,
    303: CONFIGURATION,
    304: CONFIGURATION,
    307: CONFIGURATION,
    308: CONFIGURATION,
    500: TRANSIENT,
    501: TRANSIENT,
    502: OUTAGE,
    503: OUTAGE,
    504: OUTAGE,
    599: TRANSIENT,
}


class TestAnswers:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 409])
    def test_accepted_is_also_what_the_backend_already_has(self, backend: SmallBackend, status: int) -> None:
        backend.status, backend.answer = status, b""

        deliver(backend)

        assert len(backend.calls) == 1

    @pytest.mark.parametrize("status", [200, 404, 400, 401, 403, 405, 302, 408, 425, 429, 500, 502, 503, 504])
    def test_the_backends_own_answers_mean_what_the_table_says(
        self, backend: SmallBackend, status: int
    ) -> None:
        backend.status, backend.answer = status, b"because"

        if status == 200:
            deliver(backend)
        else:
            failed = failure(backend)
            assert (failed.failure_class, failed.outage) == MEANING[status]
            assert str(failed) == f"127.0.0.1 answered {status}: because"
            assert failed.retry_after is None
        assert len(backend.calls) == 1  # trying again is somebody else's decision

    @pytest.mark.parametrize("status", MEANING)
    def test_every_status_has_a_meaning(self, status: int) -> None:
        with pytest.raises(CallbackFailed) as failed:
            check_answer("host", httpx.Response(status), str)

        assert (failed.value.failure_class, failed.value.outage) == MEANING[status]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_no_redirect_is_followed(self, backend: SmallBackend, status: int) -> None:
        backend.status = status
        backend.headers = {"Location": f"{backend.url}/elsewhere"}

        failure(backend)

        assert [call.path for call in backend.calls] == [RESULTS]

    @pytest.mark.parametrize("status", [429, 503, 500, 404])
    def test_the_backend_may_say_how_long_to_wait(self, backend: SmallBackend, status: int) -> None:
        backend.status, backend.headers = status, {"Retry-After": "17"}

        assert failure(backend).retry_after == 17

    def test_an_answer_that_is_no_text_is_shown_as_well_as_can_be(self, backend: SmallBackend) -> None:
        backend.status, backend.answer = 500, b"\xff\x00caf\xc3\xa9"

        assert "caf\u00e9" in str(failure(backend))

    def test_a_huge_answer_is_read_only_in_part(self, backend: SmallBackend) -> None:
        backend.status, backend.endless = 500, True

        failed = failure(backend)

        assert (failed.failure_class, len(str(failed)) < 400) == (FailureClass.TRANSIENT, True)
        assert backend.sent < 100 * MAX_ANSWER  # what fits into buffers on the way

    def test_a_huge_acceptance_is_an_acceptance(self, backend: SmallBackend) -> None:
        backend.endless = True

        deliver(backend)

    def test_a_backend_that_does_not_answer_is_away(self, backend: SmallBackend) -> None:
        backend.silent = True

        failed = failure(backend, timeout=0.2)

        assert (failed.failure_class, failed.outage) == OUTAGE

    def test_a_backend_that_accepted_has_accepted_even_if_it_never_finishes_saying_so(
        self, backend: SmallBackend
    ) -> None:
        backend.hangs = True

        deliver(backend, timeout=1)  # sending it again would be a second callback

        assert len(backend.calls) == 1

    @pytest.mark.parametrize("status", [404, 500])
    def test_a_refusal_is_one_even_if_its_reason_never_comes(
        self, backend: SmallBackend, status: int
    ) -> None:
        backend.status, backend.hangs = status, True

        failed = failure(backend, timeout=1)

        assert (failed.failure_class, failed.outage) == MEANING[status]

    def test_a_backend_that_is_not_there_is_away(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]  # bound, but nobody listens

            failed = failure(f"http://127.0.0.1:{port}")

        assert (failed.failure_class, failed.outage) == OUTAGE
        assert str(failed).startswith("127.0.0.1: ConnectError")

    def test_a_backend_that_speaks_no_http_is_away(self) -> None:
        async def story() -> CallbackFailed:
            async def gibberish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b"hello?\r\n\r\n")
                writer.close()

            async with await asyncio.start_server(gibberish, "127.0.0.1", 0) as server:
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                hosts = AllowedHosts.of([url], allow_loopback=True)
                async with PinnedTransport(hosts) as transport:
                    with pytest.raises(CallbackFailed) as failed:
                        await Backend(transport, 5, url, hosts).deliver(JOB, RESULT)
            return failed.value

        failed = asyncio.run(story())

        assert (failed.failure_class, failed.outage) == OUTAGE

    def test_a_header_that_cannot_be_sent_is_no_outage(self, backend: SmallBackend) -> None:
        failed = failure(backend, for_job=job(trace_parent="a\r\nX-Tenant-ID: other"))

        assert (failed.failure_class, failed.outage) == PERMANENT
        assert backend.calls == []


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"), [("0", 0), ("1", 1), ("300", 300), ("301", 300), ("9" * 400, 300)]
    )
    def test_seconds_are_taken_up_to_a_limit(self, value: str, seconds: float) -> None:
        assert _retry_after(value) == seconds

    @pytest.mark.parametrize(("ahead", "least", "most"), [(60, 50, 60), (100_000, 300, 300), (-60, 0, 0)])
    def test_so_is_a_moment(self, ahead: int, least: float, most: float) -> None:
        moment = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)

        seconds = _retry_after(moment)

        assert seconds is not None
        assert least <= seconds <= most

    @pytest.mark.parametrize("value", [None, "", "soon", "-5", "1.5", "١٢", "Wed, 99 Foo 2025 99:99:99 GMT"])
    def test_what_is_neither_is_no_wish(self, value: str | None) -> None:
        assert _retry_after(value) in (None, 12)

    @given(st.text(max_size=40))
    def test_no_header_breaks_it(self, value: str) -> None:
        seconds = _retry_after(value)

        assert seconds is None or 0 <= seconds <= 300


def test_the_documented_body_and_ours_have_the_same_shape(backend: SmallBackend) -> None:
    example = json.loads(
        (Path(__file__).parents[1] / "contracts/examples/be_callback_results_full.json").read_text()
    )

    deliver(backend)

    body = only_call(backend).body
    assert set(body) == set(example)
    for kind in ("detections", "classifications", "estimations"):
        assert set(body[kind][0]) == set(example[kind][0])
    assert set(body["metadata"]) == set(example["metadata"])
    assert set(body["detections"][0]["boundingBox"]) == set(example["detections"][0]["boundingBox"])
