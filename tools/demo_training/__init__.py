"""How the demo models are trained, one file a model; `tools/train_demo_models.py` is the command."""
