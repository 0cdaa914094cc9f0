"""Publishing requests for photos that are in a bucket already: `mlworker backfill`.

`photos.py` says which objects are photos and whose, `checkpoint.py` how far it got, `publishing.py` does it.
"""
