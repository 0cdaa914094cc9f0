"""What is gained by scaling on seconds of a device: `python -m benchmarks.autoscaling [--only burst,steady]`.

A reckoning, not a measurement: nothing runs but this program, for seconds, and the same seed gives the same
figures. It needs no torch, no cluster and no quiet machine. All sides meet the same photos:

- *ours*: the rules of `k8s/monitoring/scaler.yaml` and the settings of docs/autoscaling.md: the backlog times
  what a message has needed lately, the load that is being worked, pods that must not be stopped.
- *its backlog alone*: the same without the load, and without holding still in an outage.
- *messages per pod*: a HorizontalPodAutoscaler on undelivered messages, as most samples have it, with
  Kubernetes' own behaviour; once with as many messages a pod as one does in five minutes (120 of the usual
  mix), once with 20.

Both see what they would see: Pub/Sub counts every 60 s and shows it 120 s later; workers are scraped, and
rules evaluated, every 30 s, and a rule reads what another one recorded 30 s before; Kubernetes looks every
15 s; a new pod needs four to seven minutes. A count per pod needs no rules. Scenarios:

  steady     two photos a second for three hours, what five pods do at 80 %
  burst      3000 photos within a minute, on top of a few
  heavy      500 pictures of 30 s each, where the usual photo needs 2 s
  loss       the steady load; half of the pods vanish at once
  outage     the steady load; the backend is away for 40 minutes
  both       the same, and half of the pods vanish meanwhile: their successors have not met the outage yet
  long       16 runs of 20 minutes each, longer than a drain

For each: how long photos took from publish to ack, how many pods there were, the hours they were paid for,
the share of them in which a device computed, and what was computed in vain.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from benchmarks.autoscaling_plot import write_page, write_picture
from benchmarks.autoscaling_site import PLAIN, SLOTS, SYNC, Autoscaler, Behaviour, Policy, Site
from benchmarks.autoscaling_watch import COUNTED, GUESS, RULES, Seen, Watcher
from benchmarks.method import RESULTS

TARGET, UTILISATION, PATIENCE = 300.0, 0.8, 600.0
"""The same figures as in `k8s/monitoring/scaler.yaml`; a test compares them."""
RECOMMENDED = Behaviour(up=Policy(4, 100, 60), down=Policy(1, 25, 60), window=300)
LEAST, MOST = 1, 12
HOURS = 3.0
_SETTLED = 300
"""Seconds after which it is left to itself: who begins without a past would send everybody home."""
_NOTED = 120
"""Seconds between two points of the picture."""


def wanted(seen: Seen) -> list[float]:
    """Return what the rules say: pods wanted, and pods to protect."""
    if seen.is_held:  # the rules give no number, and Kubernetes stays at the one it has
        return [float(seen.pods), float(seen.protected)]
    for_load = max(seen.busy, seen.slots_busy / SLOTS) / UTILISATION
    return [for_backlog(seen) + for_load, float(seen.protected)]


def backlog_alone(seen: Seen) -> list[float]:
    """Return the same without what it takes to go on as now."""
    return [for_backlog(seen), float(seen.protected)]


def for_backlog(seen: Seen) -> float:
    """Return what it takes to have the backlog done in time."""
    late = min(2.0, max(1.0, seen.age / PATIENCE))
    return seen.backlog * seen.per_message / (UTILISATION * TARGET) * late


def per_pod(messages: int) -> Callable[[Seen], list[float]]:
    """Return the usual signal: so many undelivered messages are worth a pod."""
    return lambda seen: [seen.shown / messages]


@dataclass(frozen=True, slots=True)
class Side:
    """A way of scaling."""

    signal: Callable[[Seen], list[float]]
    behaviour: Behaviour


SIDES: Mapping[str, Side] = {
    "ours": Side(wanted, RECOMMENDED),
    "its backlog alone": Side(backlog_alone, RECOMMENDED),
    "120 messages per pod": Side(per_pod(round(TARGET * UTILISATION / GUESS)), PLAIN),
    "20 messages per pod": Side(per_pod(20), PLAIN),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens at a site."""

    photos: float
    """A second, of the usual mix."""
    pods: int
    """There when it begins."""
    burst: tuple[int, float] = (0, 0.0)
    """So many messages within a minute after half an hour, and what each needs; 0: the usual mix."""
    loses: int = 0
    """Pods that vanish after an hour."""
    outage: tuple[float, float] = (0.0, 0.0)
    """From when until when a peer is away."""


SCENARIOS: Mapping[str, Scenario] = {
    "steady": Scenario(photos=2.0, pods=5),
    "burst": Scenario(photos=0.2, pods=1, burst=(3000, 0.0)),
    "heavy": Scenario(photos=0.2, pods=1, burst=(500, 30.0)),
    "loss": Scenario(photos=2.0, pods=5, loses=3),
    "outage": Scenario(photos=2.0, pods=5, outage=(3600.0, 6000.0)),
    "both": Scenario(photos=2.0, pods=5, loses=3, outage=(3000.0, 5400.0)),
    "long": Scenario(photos=0.2, pods=1, burst=(16, 1200.0)),
}


@dataclass
class Run:
    """How it went."""

    scenario: str
    side: str
    published: int = 0
    done: int = 0
    age_p50: float = 0.0
    age_p99: float = 0.0
    """Seconds from publish to ack."""
    pods_most: int = 0
    pods_mean: float = 0.0
    changes: int = 0
    """How often the number of pods changed."""
    gpu_hours: float = 0.0
    busy_share: float = 0.0
    lost_gpu_hours: float = 0.0
    ages: list[tuple[float, float]] = field(default_factory=list)
    """The oldest message's age over time, in seconds."""
    pods: list[tuple[float, float]] = field(default_factory=list)


def usual(random: Random) -> float:
    """Return what a photo of the usual mix needs: 1 s, and one of ten 11 s."""
    return 11.0 if random.random() < 0.1 else 1.0


def simulate(scenario: str, side: str, seed: int, hours: float = HOURS) -> Run:
    """Let one side meet one scenario."""
    what, how, run = SCENARIOS[scenario], SIDES[side], Run(scenario, side)
    photos, site = Random(seed), Site(Random(seed + 1))
    site.scale(-1000.0, what.pods)  # ready long since
    watcher, scaler = Watcher(site), Autoscaler(how.behaviour, LEAST, MOST)
    values: list[float] = [float(what.pods)]
    end = int(hours * 3600)
    for now in range(end):
        _publish(site, what, photos, now)
        site.is_out = what.outage[0] <= now < what.outage[1]
        if now == 3600:
            site.lose(now, what.loses)
        if now % COUNTED == 0:
            watcher.count(now)
        if now % RULES == 0:
            seen = watcher.look(now)
            values = how.signal(seen) if now >= _SETTLED else values
        if now % SYNC == 0:
            before = site.replicas
            after = scaler.replicas(now, before, values)
            site.scale(now, after)
            run.changes += after != before
        site.second(now)
        if now % _NOTED == 0 or now == end - 1:
            oldest = min((message.published for message in site.waiting), default=now)
            run.ages.append((now, now - oldest))
            run.pods.append((now, len(site.pods)))
        run.pods_most = max(run.pods_most, len(site.pods))
    return _told(run, site, end)


def _publish(site: Site, what: Scenario, photos: Random, now: int) -> None:
    coming = what.photos
    while coming > 0:  # at most one every so often, so that a second's number is near to a Poisson one
        if photos.random() < min(coming, 0.1):
            site.publish(now, usual(photos))
        coming -= 0.1
    count, seconds = what.burst
    if 1800 <= now < 1860:
        for _ in range(count * (now - 1799) // 60 - count * (now - 1800) // 60):
            site.publish(now, seconds or usual(photos))


def _told(run: Run, site: Site, seconds: int) -> Run:
    # What is not done yet counts with the age it has: who leaves it lying is not the faster one.
    ages = sorted([age for _, age in site.done] + [seconds - it.published for it in site.waiting])
    run.published, run.done = len(ages), len(site.done)
    run.age_p50, run.age_p99 = ages[len(ages) // 2], ages[min(len(ages) - 1, len(ages) * 99 // 100)]
    run.pods_mean, run.gpu_hours = site.paid / seconds, site.paid / 3600
    run.busy_share, run.lost_gpu_hours = site.busy / site.paid, site.lost / 3600
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Reckon, print, and write `autoscaling.json`."""
    words = argparse.ArgumentParser(
        prog="python -m benchmarks.autoscaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--only", metavar="burst,loss", help="only these scenarios (default: all)")
    words.add_argument("--seed", type=int, default=1, help="of photos and of pods' starts (default: 1)")
    words.add_argument("--out", type=Path, default=RESULTS, help="where autoscaling.json goes")
    words.add_argument("--write", action="store_true", help="table and picture of docs/autoscaling.md too")
    options = words.parse_args(arguments)
    names = options.only.split(",") if options.only else list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            words.error(f"--only {name}: expected some of {', '.join(SCENARIOS)}")
    runs = [simulate(name, side, options.seed) for name in names for side in SIDES]
    for run in runs:
        print(
            f"{run.scenario:8}{run.side:22} p50 {run.age_p50:6.0f} s  p99 {run.age_p99:6.0f} s  "
            f"pods {run.pods_mean:4.1f}, at most {run.pods_most:2}  {run.gpu_hours:5.1f} GPU-hours, "
            f"{run.busy_share:4.0%} busy, {run.lost_gpu_hours:4.2f} lost  {run.changes} changes"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "autoscaling.json").write_text(
        json.dumps({"seed": options.seed, "runs": [asdict(run) for run in runs]}, indent=1) + "\n"
    )
    if options.write:
        write_picture(runs)
        write_page(runs, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
