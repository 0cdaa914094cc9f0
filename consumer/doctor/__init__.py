"""`mlworker doctor`: what is wrong with a set-up, found before it hurts.

Read in this order: `findings.py` (what a check says), `checks.py` (what a check is), `site.py` (what checks
look at), `examination.py` (how they are run); then one file per subject: `consistency.py`,
`subscription.py`, `outgoing.py`, `permissions.py`, `buckets.py`, `lifecycle.py`, `pipelines.py`, `routes.py`,
`models.py`, `callback.py`, `clock.py`. `pubsub.py`, `storage_api.py` and `connection.py` ask the peers.
"""
