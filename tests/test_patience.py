"""What is tried again, what is waited through, what is told at once; on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from consumer.broker import BrokerMisconfigured, BrokerUnavailable, MessageTooLarge
from consumer.errors import CallbackFailed, HoldExpired
from consumer.patience import Patience, Verdict, verdict_of
from contracts.failure import FailureClass
from pipeline_steps.errors import (
    DeadlineExceeded,
    DeviceOverloaded,
    InvalidInput,
    ModelUnavailable,
    ObjectMissing,
    StoreMisconfigured,
    StoreUnavailable,
    Superseded,
)

AWAY = CallbackFailed("503", FailureClass.TRANSIENT, outage=True)
BUSY = CallbackFailed("500", FailureClass.TRANSIENT)
UNKNOWN = CallbackFailed("404", FailureClass.NOT_FOUND)
FORBIDDEN = CallbackFailed("401", FailureClass.CONFIGURATION)
REFUSED = CallbackFailed("400", FailureClass.PERMANENT)


@dataclass
class Bench:
    """Patience on a clock that jumps as soon as somebody sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    outages: list[dict[str, str]] = field(default_factory=list)
    """What was waited for, each time somebody slept."""
    paused: list[bool] = field(default_factory=list)
    """Whether pulling was paused then."""

    def __post_init__(self) -> None:
        self.patience = Patience(
            hold_timeout=7200, retry_timeout=90, not_found_timeout=120, clock=lambda: self.now
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.outages.append(dict(self.patience.waiting))
        self.paused.append(bool(self.patience.outages))
        self.now += seconds

    def persist(
        self, call: Callable[[], Awaitable[str]], destination: str = "backend", *, everybody: bool = True
    ) -> str:
        return asyncio.run(self.patience.persist(destination, call, about="one message", everybody=everybody))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench, turn = Bench(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        await bench.sleep(seconds)
        await turn(0)  # others have their turn, as when one really sleeps

    monkeypatch.setattr(asyncio, "sleep", sleep)  # nothing else sleeps in these tests
    return bench


def failing(*errors: Exception) -> Callable[[], Awaitable[str]]:
    """Return a call that raises these errors, one each time, and then answers."""
    left: Iterator[Exception] = iter(errors)

    async def call() -> str:
        for error in left:
            raise error
        return "answer"

    return call


def always(error: Exception) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (AWAY, Verdict.HOLD),
        (FORBIDDEN, Verdict.HOLD),
        (BrokerUnavailable("x"), Verdict.HOLD),
        (BrokerMisconfigured("x"), Verdict.HOLD),
        (StoreUnavailable("x"), Verdict.HOLD),
        (StoreMisconfigured("x"), Verdict.HOLD),
        (ModelUnavailable("x"), Verdict.HOLD),
        (BUSY, Verdict.RETRY),
        (UNKNOWN, Verdict.RETRY),
        (REFUSED, Verdict.TELL),
        (MessageTooLarge("x"), Verdict.TELL),
        (ObjectMissing("x"), Verdict.TELL),
        (InvalidInput("x"), Verdict.TELL),
        (Superseded("x"), Verdict.TELL),
        (DeadlineExceeded("x"), Verdict.TELL),
        (DeviceOverloaded("x"), Verdict.TELL),
        (ZeroDivisionError("x"), Verdict.TELL),
    ],
    ids=lambda value: value.name if isinstance(value, Verdict) else f"{type(value).__name__} {value}",
)
def test_every_error_has_a_verdict(error: Exception, verdict: Verdict) -> None:
    assert verdict_of(error) is verdict


def test_what_succeeds_is_not_waited_for(bench: Bench) -> None:
    assert bench.persist(failing()) == "answer"
    assert bench.slept == []


@pytest.mark.parametrize("error", [REFUSED, ZeroDivisionError("x"), ObjectMissing("x")])
def test_what_waiting_cannot_help_is_told_at_once(bench: Bench, error: Exception) -> None:
    with pytest.raises(type(error)) as told:
        bench.persist(always(error))

    assert told.value is error
    assert bench.slept == []


class TestRetrying:
    def test_a_bad_moment_is_tried_again_with_growing_waits(self, bench: Bench) -> None:
        assert bench.persist(failing(*[BUSY] * 7)) == "answer"
        assert bench.slept == [0.5, 1, 2, 4, 8, 15, 15]

    def test_a_bad_moment_that_lasts_is_told(self, bench: Bench) -> None:
        with pytest.raises(CallbackFailed) as told:
            bench.persist(always(BUSY))

        assert told.value is BUSY
        assert 90 <= bench.now - 1000 <= 90 + 15

    def test_an_unknown_session_is_waited_for_as_long_as_the_operator_says(self, bench: Bench) -> None:
        with pytest.raises(CallbackFailed):
            bench.persist(always(UNKNOWN))

        assert 120 <= bench.now - 1000 <= 120 + 15

    def test_with_no_time_for_it_an_unknown_session_is_told_at_once(self, bench: Bench) -> None:
        bench.patience.not_found_timeout = 0

        with pytest.raises(CallbackFailed):
            bench.persist(always(UNKNOWN))

        assert bench.slept == []

    def test_it_is_no_outage(self, bench: Bench) -> None:
        bench.persist(failing(BUSY, UNKNOWN, BUSY))

        assert bench.outages == [{}] * 3

    def test_a_peer_may_ask_for_a_longer_wait(self, bench: Bench) -> None:
        asks = CallbackFailed("429", FailureClass.TRANSIENT, retry_after=40.0)

        bench.persist(failing(asks, BUSY))

        assert bench.slept == [40, 1]

    def test_a_peer_that_asks_for_less_gets_no_hurry(self, bench: Bench) -> None:
        bench.persist(failing(CallbackFailed("429", FailureClass.TRANSIENT, retry_after=0.0)))

        assert bench.slept == [0.5]


class TestHolding:
    @pytest.mark.parametrize("error", [AWAY, FORBIDDEN, BrokerUnavailable("x"), StoreUnavailable("x")])
    def test_an_outage_is_waited_through_however_often_it_fails(self, bench: Bench, error: Exception) -> None:
        assert bench.persist(failing(*[error] * 200)) == "answer"
        assert bench.now - 1000 > 2000

    def test_meanwhile_it_is_known_and_why(self, bench: Bench) -> None:
        bench.persist(failing(AWAY, AWAY))

        assert bench.outages == [{"backend": "503"}] * 2
        assert bench.patience.waiting == {}

    def test_an_outage_longer_than_that_hands_the_work_back(self, bench: Bench) -> None:
        with pytest.raises(HoldExpired) as told:
            bench.persist(always(AWAY))

        assert str(told.value) == "backend was away for 7200 s: 503"
        assert told.value.__cause__ is AWAY
        assert 7200 <= bench.now - 1000 <= 7200 + 15
        assert bench.patience.waiting == {}

    def test_a_peer_that_is_away_may_say_for_how_long(self, bench: Bench) -> None:
        away = CallbackFailed("503", FailureClass.TRANSIENT, outage=True, retry_after=120.0)

        bench.persist(failing(away, AWAY))

        assert bench.slept == [120, 1]

    @pytest.mark.parametrize(
        ("error", "misconfigured"),
        [(FORBIDDEN, True), (StoreMisconfigured("x"), True), (BrokerMisconfigured("x"), True), (AWAY, False)],
    )
    def test_only_what_an_operator_must_mend_makes_the_worker_unready(
        self, bench: Bench, error: Exception, misconfigured: bool
    ) -> None:
        seen: list[bool] = []
        call = failing(error, error)

        async def watched() -> str:
            seen.append(bool(bench.patience.misconfigured))
            return await call()

        bench.persist(watched)

        assert seen == [False, misconfigured, misconfigured]
        assert bench.patience.misconfigured == {}

    @pytest.mark.parametrize("everybodys", [True, False])
    def test_a_host_of_some_messages_that_refuses_us_is_told_but_leaves_the_worker_ready(
        self, bench: Bench, everybodys: bool
    ) -> None:
        seen: list[tuple[bool, bool]] = []
        call = failing(FORBIDDEN)

        async def watched() -> str:
            seen.append((bool(bench.patience.misconfigured), bool(bench.patience.unready)))
            return await call()

        bench.persist(watched, everybody=everybodys)

        assert seen == [(False, False), (True, everybodys)]

    def test_a_model_that_does_not_load_makes_the_worker_unready_and_stops_nobody_who_needs_another(
        self, bench: Bench
    ) -> None:
        seen: list[tuple[bool, bool, int]] = []
        call = failing(*[ModelUnavailable("model 'plants' has another sha256")] * 9)

        async def watched() -> str:
            patience = bench.patience
            seen.append((bool(patience.unready), bool(patience.misconfigured), patience.open_circuits))
            return await call()

        asyncio.run(bench.patience.persist("model plants", watched, everybody=False, ours=True))

        assert seen == [(False, False, 0)] + [(True, True, 0)] * 9
        assert not any(bench.paused)
        assert bench.patience.unready == {}

    def test_one_destination_away_is_not_another(self, bench: Bench) -> None:
        bench.persist(failing(AWAY), "callback a")
        bench.persist(failing(AWAY), "callback b")

        assert bench.outages == [{"callback a": "503"}, {"callback b": "503"}]

    def test_whoever_ends_is_no_longer_waited_for(self, bench: Bench) -> None:
        with pytest.raises(CallbackFailed):
            bench.persist(failing(AWAY, REFUSED))

        assert bench.patience.waiting == {}


class TestOneMessageAmongOthers:
    """Others get through: then it is about this message, and no outage."""

    def others_succeed_after(
        self, bench: Bench, failures: int, error: Exception = AWAY
    ) -> Callable[[], Awaitable[str]]:
        """Return a call that always fails, while from some time on others to the same place succeed."""
        tries = 0

        async def call() -> str:
            nonlocal tries
            tries += 1
            if tries > failures:
                await bench.patience.persist("backend", failing())
            raise error

        return call

    def test_it_is_tried_for_a_while_and_then_told(self, bench: Bench) -> None:
        with pytest.raises(CallbackFailed) as told:
            bench.persist(self.others_succeed_after(bench, 0))

        assert told.value is AWAY
        assert 90 <= bench.now - 1000 <= 90 + 15
        assert bench.outages == [{}] * len(bench.outages)

    def test_a_success_before_it_began_says_nothing_about_now(self, bench: Bench) -> None:
        bench.persist(failing())
        bench.now += 1

        with pytest.raises(HoldExpired):
            bench.persist(always(AWAY))

    def test_the_outage_it_waited_through_first_does_not_count_against_it(self, bench: Bench) -> None:
        """After an hour's outage, one more failure must not be the last: others were merely quicker."""
        with pytest.raises(CallbackFailed):
            bench.persist(self.others_succeed_after(bench, 240))

        outage = sum(seconds for seconds, known in zip(bench.slept, bench.outages, strict=True) if known)
        assert outage > 3000
        assert 90 <= bench.now - 1000 - outage <= 90 + 2 * 15


class TestCircuit:
    """A host's circuit: a story of several messages at once, each told by its own call."""

    def run(self, bench: Bench, *messages: tuple[str, Callable[[], Awaitable[str]]]) -> list[str | Exception]:
        async def story() -> list[str | BaseException]:
            return await asyncio.gather(
                *(bench.patience.persist("callback a", call, about=about) for about, call in messages),
                return_exceptions=True,
            )

        return [answer for answer in asyncio.run(story()) if isinstance(answer, str | Exception)]

    def test_one_message_that_always_gets_a_500_never_opens_it(self, bench: Bench) -> None:
        for _ in range(5):
            with pytest.raises(CallbackFailed):
                bench.persist(always(BUSY))

        assert bench.patience.open_circuits == 0
        assert not any(bench.paused)

    def test_several_messages_with_no_success_between_open_it_and_are_waited_through(
        self, bench: Bench
    ) -> None:
        """500s only, for much longer than a single message is tried."""
        answers = self.run(bench, *((f"message {i}", failing(*[BUSY] * 60)) for i in range(3)))

        assert answers == ["answer"] * 3
        assert any(bench.paused)
        assert bench.patience.open_circuits == 0

    def test_five_failures_over_two_messages_are_too_few(self, bench: Bench) -> None:
        answers = self.run(bench, *((f"message {i}", always(BUSY)) for i in range(2)))

        assert answers == [BUSY, BUSY]
        assert not any(bench.paused)

    def test_a_success_between_starts_the_count_anew(self, bench: Bench) -> None:
        for message in ("a", "b"):
            asyncio.run(bench.patience.persist("callback a", failing(BUSY, BUSY), about=message))
        asyncio.run(bench.patience.persist("callback a", failing(BUSY, BUSY), about="c"))

        assert not any(bench.paused)

    def test_sessions_nobody_knows_do_not_open_it(self, bench: Bench) -> None:
        answers = self.run(bench, *((f"message {i}", always(UNKNOWN)) for i in range(4)))

        assert answers == [UNKNOWN] * 4
        assert bench.patience.open_circuits == 0

    def test_a_peer_of_googles_is_away_for_all_at_its_first_failure(self, bench: Bench) -> None:
        bench.persist(failing(BrokerUnavailable("x")), "results topic")

        assert bench.paused == [True]

    def test_a_host_that_only_some_messages_need_stops_nobody_else(self, bench: Bench) -> None:
        async def story() -> None:
            calls = (
                bench.patience.persist(
                    "callback other", failing(*[AWAY] * 9), about=f"message {i}", everybody=False
                )
                for i in range(4)
            )
            await asyncio.gather(*calls)

        asyncio.run(story())
        assert not any(bench.paused)
        assert {"callback other": "503"} in bench.outages

    def test_it_holds_no_more_than_its_share(self, bench: Bench) -> None:
        bench.patience.share = 2
        taken: list[bool] = []

        def call() -> Callable[[], Awaitable[str]]:
            inner = failing(AWAY, AWAY, AWAY)

            async def watched() -> str:
                taken.append(bench.patience.is_taken("callback other"))
                return await inner()

            return watched

        async def story() -> list[str | BaseException]:
            return await asyncio.gather(
                *(
                    bench.patience.persist("callback other", call(), about=f"{i}", everybody=False)
                    for i in range(4)
                ),
                return_exceptions=True,
            )

        answers = asyncio.run(story())
        assert [type(answer) for answer in answers].count(HoldExpired) == 2
        assert answers.count("answer") == 2
        assert True in taken
        assert not bench.patience.is_taken("callback other")


def test_a_wait_that_is_cancelled_leaves_no_outage_behind() -> None:
    async def story() -> None:
        patience = Patience(hold_timeout=60, wait_initial=30)
        waiting = asyncio.Event()

        async def call() -> str:
            waiting.set()
            raise AWAY

        task = asyncio.create_task(patience.persist("backend", call))
        await waiting.wait()
        while not patience.waiting:  # noqa: ASYNC110 (the next turn of the loop notes it)
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert patience.waiting == {}

    asyncio.run(story())
