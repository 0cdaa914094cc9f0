"""A backend that fails for a while, at its real length; then the accounts are compared.

`python -m tests.faults.outage --status 401 --seconds 600`, or `--away`: what a test cannot wait for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.invariants import broken_promises
from tests.faults.peers import LEASE, SLOTS, Peers, Sent, open_peers, step
from tests.faults.worker import Worker

MESSAGES = 40
ALERT = "mlworker_misconfigured"


def fail(peers: Peers, worker: Worker, sent: list[Sent], seconds: float) -> dict[str, object]:
    """Look at the worker every second for as long as the fault lasts."""
    end, seen = time.monotonic() + seconds, Counter[str]()
    while time.monotonic() < end:
        seen["looks"] += 1
        seen["ready"] += worker.ready
        seen["alert up"] += worker.metric(ALERT) > 0
        seen["circuit open"] += worker.metric("mlworker_circuits_open") > 0
        time.sleep(1)
    return {**seen, "delivered meanwhile": sum(peers.tally(one).effects for one in sent)}


def main() -> int:
    """Disturb, wait, mend, compare; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    fault = parser.add_mutually_exclusive_group(required=True)
    fault.add_argument("--status", type=int, help="what the backend answers to everything")
    fault.add_argument("--away", action="store_true", help="nobody listens")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_peers(Path(folder)) as peers:
        worker = peers.worker(MAX_ATTEMPTS="1").until_ready()  # one attempt used up would be a dead letter
        sent = [peers.send(step("work", seconds=0.2)) for _ in range(MESSAGES // 2)]
        peers.until_running(sent[0])
        if options.away:
            peers.backend.stop()
        else:
            peers.backend.misbehave(status=options.status)
        sent += [peers.send(step("work", seconds=0.2)) for _ in range(MESSAGES // 2)]
        meanwhile = fail(peers, worker, sent, options.seconds)
        peers.backend.start() if options.away else peers.backend.heal()
        mended = time.monotonic()
        peers.until_settled(300)
        settled = time.monotonic() - mended
        tallies = [peers.tally(one) for one in sent]
        figures = {
            "messages": len(sent),
            "meanwhile": meanwhile,
            "dead letters": sum(tally.letters for tally in tallies),
            "most runs of one": max(tally.runs for tally in tallies),
            "effective callbacks of each": sorted({tally.effects for tally in tallies}),
            "seconds until all were delivered": round(settled, 1),
            "ready again": worker.ready,
            "broken": list(broken_promises(peers, slots=SLOTS)),
            "lease": LEASE,
        }
    print(json.dumps(figures, indent=2))
    return 0 if not figures["broken"] and not figures["dead letters"] else 1


if __name__ == "__main__":
    sys.exit(main())
