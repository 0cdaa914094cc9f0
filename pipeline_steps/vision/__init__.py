"""Steps that ask a model about the picture."""
