"""How the demo models are trained, one file a model; `python -m tools.train_demo_models` is the command."""
