"""What a step author needs, and the steps.

A step is one function and one decorator in one file; see CONTRIBUTING.md. The names below are all it takes.
"""

from pipeline_steps.artifact import NOTHING, Artifact, Artifacts, Cumulative, Ids, Mergeable, Rows, Things
from pipeline_steps.context import Deadline, JobInfo, StepContext, TenantStore
from pipeline_steps.errors import StepError
from pipeline_steps.loading import load_steps
from pipeline_steps.models import ModelKind, Models, ModelSpec
from pipeline_steps.registry import STEPS, Scope, StepParams, StepRegistry, setting, step

__all__ = [
    "NOTHING",
    "STEPS",
    "Artifact",
    "Artifacts",
    "Cumulative",
    "Deadline",
    "Ids",
    "JobInfo",
    "Mergeable",
    "ModelKind",
    "ModelSpec",
    "Models",
    "Rows",
    "Scope",
    "StepContext",
    "StepError",
    "StepParams",
    "StepRegistry",
    "TenantStore",
    "Things",
    "load_steps",
    "setting",
    "step",
]
