"""When the scaler is told nothing, so that it changes nothing: while most pods may not pull."""

from __future__ import annotations

from pathlib import Path

from tests.monitoring.test_rules import AGE, BACKLOG, PODS, of_worker, wanted

FINE, PAUSED, WARMING = ("1x60", "0+0x60"), ("1x60", "1x60"), ("0+0x60", "0+0x60")
"""What a pod says: whether it is ready, and whether it may not pull; a value a minute."""
BRAKED = ("0+0x60", "1x60")
BEGUN = ("0+0x37 1x20", "0+0x60")
"""Ready for two minutes when it is looked, after 40."""
AS_ALWAYS = 10.625
"""What the backlog and the load of `PODS` are worth."""


def site(**pods: tuple[str, str]) -> dict[str, str]:
    """A backlog, and pods that each say something; `a` is the one that has work."""
    said = {BACKLOG: "800x60", AGE: "100x60", **PODS}
    for pod, (ready, paused) in pods.items():
        said |= {of_worker("ready", pod): ready, of_worker("pulling_paused", pod): paused}
        said |= {of_worker("draining", pod): "0+0x60"}
    return said


def held(folder: Path, after: str = "40m", **pods: tuple[str, str]) -> None:
    wanted(folder, site(**pods), {"mlworker:pods_wanted": None}, after)


def not_held(folder: Path, after: str = "40m", **pods: tuple[str, str]) -> None:
    wanted(folder, site(**pods), {"mlworker:pods_wanted": AS_ALWAYS}, after)


def test_an_outage_that_all_pods_have_met_holds(tmp_path: Path) -> None:
    held(tmp_path, a=PAUSED)
    held(tmp_path, a=PAUSED, b=PAUSED, c=PAUSED)
    not_held(tmp_path, a=FINE, b=FINE, c=FINE)


def test_a_pod_that_begins_does_not_end_the_hold(tmp_path: Path) -> None:
    held(tmp_path, a=PAUSED, b=PAUSED, c=PAUSED, d=WARMING)
    held(tmp_path, a=PAUSED, b=WARMING, c=WARMING, d=WARMING)
    held(tmp_path, a=PAUSED, b=BEGUN)


def test_the_extra_pods_of_a_release_are_not_kept_for_want_of_a_number(tmp_path: Path) -> None:
    three = {"a": PAUSED, "b": PAUSED, "c": PAUSED}

    held(tmp_path, **three, d=WARMING)
    held(tmp_path, **three, d=BEGUN)
    held(tmp_path, **three, d=PAUSED, e=WARMING)


def test_a_pod_with_a_trouble_of_its_own_holds_nobody(tmp_path: Path) -> None:
    not_held(tmp_path, a=FINE, b=PAUSED)
    not_held(tmp_path, a=FINE, b=PAUSED, c=FINE, d=FINE, e=WARMING)
    not_held(tmp_path, a=FINE, b=BRAKED, c=FINE)


def test_most_pods_decide(tmp_path: Path) -> None:
    held(tmp_path, a=FINE, b=PAUSED, c=PAUSED, d=FINE, e=PAUSED)
    not_held(tmp_path, a=FINE, b=PAUSED, c=PAUSED, d=FINE)


def test_the_hold_ends_two_minutes_after_the_outage(tmp_path: Path) -> None:
    over = ("1x60", "1x38 0+0x20")

    held(tmp_path, a=over, b=over, after="40m")
    not_held(tmp_path, a=over, b=over, after="42m")


def test_a_brake_holds_also_while_it_lets_some_through(tmp_path: Path) -> None:
    blinking = ("0+0x39 1 0+0x20", "1x39 0 1x20")

    held(tmp_path, a=BRAKED, b=BRAKED)
    held(tmp_path, a=blinking, b=blinking)


def test_who_is_gone_is_not_asked(tmp_path: Path) -> None:
    gone = ("1x36 _x30", "0+0x36 _x30")

    held(tmp_path, a=PAUSED, b=gone, c=gone)
