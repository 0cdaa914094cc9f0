"""The models: the manifest that names them, the pool that keeps them warm, and what runs each kind.

Read `manifest.py`, `pool.py`, `batcher.py`, `device.py`; then `torch_loader.py` and the runners.
"""
