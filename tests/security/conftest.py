from tests.end_to_end.conftest import play, toys

__all__ = ["play", "toys"]
