"""The worker.

To follow one message, read in this order:

1. `contracts/request.py`: what arrives
2. `consumer/worker.py`: pull, hold the lease, settle, drain
3. `consumer/handler.py`: THE STORY: decode, parse, look up, run, record, publish, call back, mark
4. `consumer/decode.py`, `consumer/jobs.py`: from bytes to a job
5. `consumer/pipeline/parse.py`, `consumer/pipeline/execute.py`: the DSL
6. `pipeline_steps/vision/detection.py`: a step
7. `consumer/models/pool.py`, `consumer/models/batcher.py`: how models are shared
8. `consumer/ledger.py`, `consumer/outbound/`: what is kept, and what leaves
9. `consumer/outcomes.py`, `consumer/giving_up.py`: what becomes of failures
10. `consumer/app.py`, `consumer/starting.py`: how all of it is put together, and started
"""
