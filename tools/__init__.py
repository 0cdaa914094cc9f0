"""The tools of the repository: training, the hostile run, the README's tables."""
