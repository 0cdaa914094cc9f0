"""What operators see: logs, probes, metrics."""
