"""Others that do the worker's job, used as their own documentation says: `python -m benchmarks.peers`.

That command makes an environment for them (`.venv-peers`), apart from ours. In it run

- `streaming.py`: Google's streaming client, the model in its callback
- `litserve_server.py` behind `litserve_shim.py`: LitServe, fed from Pub/Sub
- `celery_app.py`: Celery on its Pub/Sub transport

each with `job.py`, which is all the rest of the job: fetch, decode, publish, call back. They keep no record,
so they do less than the worker does.
"""
