"""Steps that read, draw and store pictures."""
