"""Local mode: the same worker between embedded peers, with generated photos and small models."""
