"""The reckoning of what a way of scaling brings."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from xml.etree import ElementTree as ET

import pytest

from benchmarks import autoscaling_plot
from benchmarks.autoscaling import SCENARIOS, SIDES, main, simulate, wanted
from benchmarks.autoscaling_site import PLAIN, Autoscaler, Behaviour, Policy, Site, proposal
from benchmarks.autoscaling_watch import GUESS, Seen, Watcher
from tests.command import ROOT

SEEN = Seen(
    shown=900,
    backlog=800,
    age=100,
    busy=0.5,
    slots_busy=1,
    pods=1,
    per_message=3,
    is_held=False,
    protected=0,
)


def test_the_signal_is_that_of_the_rules() -> None:
    # The same figures as in test_rules.py, where Prometheus evaluates the rules themselves.
    assert wanted(SEEN) == pytest.approx([10.625, 0])


def test_an_old_backlog_counts_more_and_an_outage_holds() -> None:
    assert wanted(dataclasses.replace(SEEN, age=900))[0] == pytest.approx(15.625)
    assert wanted(dataclasses.replace(SEEN, age=9000))[0] == pytest.approx(20.625)
    assert wanted(dataclasses.replace(SEEN, is_held=True, pods=4)) == [4, 0]


@pytest.mark.parametrize(
    ("value", "replicas", "pods"),
    [(5.4, 5, 5), (5.6, 5, 6), (4.5, 5, 5), (4.4, 5, 5), (3.2, 5, 4), (0, 5, 0)],
)
def test_kubernetes_rounds_up_and_minds_no_difference_of_a_tenth(
    value: float, replicas: int, pods: int
) -> None:
    assert proposal(value, replicas) == pods


def test_upwards_it_goes_at_once_but_no_faster_than_it_may() -> None:
    scaler = Autoscaler(Behaviour(up=Policy(4, 100, 60), down=Policy(1, 0, 60), window=300), 1, 20)

    assert scaler.replicas(0, 1, [15]) == 5
    assert scaler.replicas(15, 5, [15]) == 5
    assert scaler.replicas(61, 5, [15]) == 10
    assert scaler.replicas(122, 10, [99]) == 20


def test_downwards_the_greatest_of_the_window_holds_and_steps_are_small() -> None:
    scaler = Autoscaler(Behaviour(up=Policy(4, 100, 60), down=Policy(1, 25, 60), window=300), 1, 20)

    assert scaler.replicas(0, 8, [8]) == 8
    assert scaler.replicas(15, 8, [2]) == 8
    assert scaler.replicas(301, 8, [2]) == 6
    assert scaler.replicas(316, 6, [2]) == 6
    assert scaler.replicas(362, 6, [2]) == 4


def test_of_two_values_the_greater_one_counts() -> None:
    assert Autoscaler(PLAIN, 1, 20).replicas(0, 3, [3, 5]) == 5


def site_with(pods: int, *messages: float) -> Site:
    site = Site(Random(1))
    site.scale(-1000, pods)
    for seconds in messages:
        site.publish(0, seconds)
    return site


def run(site: Site, seconds: int, start: int = 0) -> None:
    for now in range(start, start + seconds):
        site.second(now)


def test_two_pods_do_ten_seconds_of_work_in_five() -> None:
    site = site_with(2, *[1.0] * 10)

    run(site, 5)

    assert len(site.done) == 10
    assert (site.busy, site.paid, site.lost) == (10, 10, 0)
    assert site.waiting == []


def test_a_pod_that_is_sent_away_finishes_what_it_can_and_hands_back_the_rest() -> None:
    site = site_with(1, 100.0, 150.0, 200.0)
    run(site, 10)

    site.scale(10, 0)
    assert [message.left for message in site.queue] == [200]
    run(site, 300, start=10)

    assert len(site.done) == 2
    assert site.lost == 0
    assert site.pods == []


def test_a_run_that_is_longer_than_a_drain_is_lost_with_its_pod_and_is_to_be_protected() -> None:
    site = site_with(1, 1000.0)
    run(site, 100)
    assert site.pods[0].is_to_be_protected

    site.scale(100, 0)

    assert site.lost == 100
    assert [message.left for message in site.queue] == [1000]


def test_what_a_lost_pod_had_comes_again_when_its_lease_is_over() -> None:
    site = site_with(1, 5.0)
    run(site, 2)

    site.lose(2, 1)
    run(site, 100, start=2)

    assert (site.lost, len(site.waiting), len(site.queue)) == (2, 1, 0)
    run(site, 500, start=102)
    assert len(site.done) == 1


def test_who_watches_sees_the_backlog_as_late_as_pubsub_tells() -> None:
    site = site_with(1)
    watcher = Watcher(site)
    watcher.count(0)
    for _ in range(50):
        site.publish(10, 1.0)
    watcher.count(60)

    assert watcher.look(150).shown == 0
    assert watcher.look(180).shown == 50
    assert watcher.look(180).per_message == GUESS


def test_the_scaler_sees_it_later_by_the_rules_between() -> None:
    site = site_with(1, *[100.0] * 5)
    watcher = Watcher(site)
    watcher.count(60)

    seen = {}
    for now in range(0, 300, 30):
        run(site, 30, start=now)
        seen[now] = watcher.look(now)

    # Two rules stand between Pub/Sub's figure and the last one, and one between the load and it.
    assert next(now for now, it in seen.items() if it.shown == 5) == 180
    assert next(now for now, it in seen.items() if it.backlog == 5) == 240
    assert seen[0].busy == 0
    assert seen[30].busy == 0
    assert seen[60].busy > 0


def test_a_pod_that_begins_in_an_outage_does_not_end_the_hold() -> None:
    site = site_with(2)
    watcher = Watcher(site)
    site.is_out = True
    assert watcher.look(0).is_held

    site.lose(10, 1)
    site.scale(10, 3)
    assert watcher.look(30).is_held
    site.is_out = False
    assert watcher.look(150).is_held
    assert not watcher.look(180).is_held


def test_in_an_outage_the_pods_stay_as_many_also_when_some_are_lost() -> None:
    pods = dict(simulate("both", "ours", seed=1).pods)

    assert {count for at, count in pods.items() if 3120 <= at <= 5400} == {pods[3120]}
    assert max(count for at, count in pods.items() if at > 5400) > pods[3120]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_lost_and_the_same_seed_gives_the_same(scenario: str) -> None:
    first, again = (simulate(scenario, "ours", seed=7, hours=0.7) for _ in range(2))

    assert first == again
    assert first.done <= first.published
    assert first.busy_share <= 1
    assert all(simulate(scenario, side, seed=7, hours=0.7).published == first.published for side in SIDES)


def test_the_page_and_the_picture_are_of_the_program_as_it_is(tmp_path: Path) -> None:
    text = autoscaling_plot.PAGE.read_text()
    shown = text.partition(autoscaling_plot.BEGIN)[2].partition(autoscaling_plot.END)[0].strip()
    seed = int(re.findall(r"--seed (\d+)", shown)[0])

    runs = [simulate(scenario, side, seed) for scenario in SCENARIOS for side in SIDES]

    assert shown == autoscaling_plot.table(runs, seed), "run python -m benchmarks.autoscaling --write"
    assert autoscaling_plot.PICTURE.read_text() == autoscaling_plot.picture(runs)
    ET.fromstring(autoscaling_plot.picture(runs))


def test_the_command_writes_what_it_prints_and_refuses_what_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--only", "burst", "--out", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "autoscaling.json").read_text())["runs"]
    assert [run["side"] for run in runs] == list(SIDES)
    assert f"{runs[0]['gpu_hours']:.1f} GPU-hours" in capsys.readouterr().out

    with pytest.raises(SystemExit):
        main(["--only", "bursts"])
    assert "expected some of steady, burst" in capsys.readouterr().err


def test_it_needs_no_torch_and_teaches() -> None:
    ask = (
        "import sys; from benchmarks.autoscaling import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in SCENARIOS)
