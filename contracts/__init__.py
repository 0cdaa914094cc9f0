"""Every message in and out of the worker; imports nothing else of ours."""

__version__ = "0.1.0"
