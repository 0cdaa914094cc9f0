"""One message that a backend never takes, among others that it does."""

from __future__ import annotations

from collections import Counter

LOOK = {"type": "step", "name": "look"}
ATTEMPTS, OTHERS = 2, 4


def test_one_message_that_always_gets_a_500_is_given_up_after_its_tries_and_opens_no_circuit(play, toys):
    async def story(site):
        await site.photo()
        unlucky = site.request(LOOK)
        site.backend.refuses[unlucky["image_id"]] = 500
        open_circuits = set()
        async with site.worker(max_attempts=ATTEMPTS) as running:
            running.patience.retry_timeout = 0.2  # a minute and a half are too long for a test

            def have_ended(count):
                open_circuits.add(running.patience.open_circuits)
                return len(site.settled) == count

            site.publish(unlucky)
            for attempt in range(1, ATTEMPTS + 1):
                for _ in range(OTHERS):
                    site.publish(site.request(LOOK))
                ended = attempt * (OTHERS + 1)
                await site.until(lambda ended=ended: have_ended(ended), f"attempt {attempt} and the others")
                site.broker.advance(11)  # the rest between two attempts
        good = ATTEMPTS * OTHERS
        assert Counter(site.reasons()) == {"succeeded": good, "callback_failed": 1, "given_up": 1}
        assert open_circuits == {0}
        assert sorted(site.backend.accepted("/results").values()) == [1] * good
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-error-code"] == "callback_failed"
        assert letter.attributes["mlworker-attempts"] == str(ATTEMPTS)
        assert toys.runs[unlucky["image_id"]] == 1  # its result was recorded

    play(story)
