"""What leaves the worker: results, callbacks, dead letters."""
