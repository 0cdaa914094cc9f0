"""Steps that count, size, filter and estimate what was found."""
