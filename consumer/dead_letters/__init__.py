"""Dead letters for people: look, decide, replay or discard.

To follow a replay, read in this order:

1. `commands.py`, `changing.py`: what is typed
2. `desk.py`: what a command works with: the subscription, leases, a way to stop
3. `browsing.py`, `holding.py`: pulling until nothing comes, without losing or keeping anything
4. `envelope.py`, `stored.py`, `filters.py`: what a dead letter says, and which are meant
5. `targets.py`: who would get a replay
6. `replay.py`, `patching.py`, `audit.py`: published, noted, acked, in this order
"""
