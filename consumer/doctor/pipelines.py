"""Steps, and the pipelines that messages name: presets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from consumer.doctor.checks import Findings, Skip, check
from consumer.doctor.findings import Finding, Severity, error, info, ok, warning
from consumer.doctor.site import Site
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.presets import InvalidPresets, load_presets
from contracts.pipeline import PipelineDefinition
from pipeline_steps.loading import PluginFailed, load_steps
from pipeline_steps.models import ModelCatalogue


@check("steps.plugins", fix="reinstall the plug-in, or uninstall it", needs_network=False)
async def plugins(site: Site) -> Findings:
    """Every installed plug-in's steps can be loaded.

    The worker does not start with a plug-in that is broken.
    """
    del site
    try:
        steps = load_steps()
    except PluginFailed as failed:
        yield error("entry points mlworker.steps", str(failed), "a plug-in that loads")
    else:
        yield ok("entry points mlworker.steps", f"{len(list(steps))} steps")


@check("presets.file", fix="correct the file; `mlworker validate` takes presets as JSON", needs_network=False)
async def presets_file(site: Site) -> Findings:
    """PRESETS_FILE can be read.

    The worker does not start without it.
    """
    subject = str(site.settings.presets_file or "the packaged presets")
    try:
        presets = load_presets(site.settings.presets_file)
    except InvalidPresets as wrong:
        for problem in str(wrong).splitlines():
            yield error(subject, problem.removeprefix(f"{subject}: "), "a usable file of presets")
    else:
        yield ok(subject, f"{len(presets.by_name)} pipelines")


@check(
    "presets.pipelines",
    fix="correct the preset in PRESETS_FILE, or models.yaml, or PIPELINE_TIMEOUT",
    needs_network=False,
)
async def presets_pipelines(site: Site) -> Findings:
    """Every preset can run here: its steps, its models, and its times within PIPELINE_TIMEOUT.

    A message that names a preset which cannot run is given up. The packaged presets need models of the names
    they use; they matter only to a backend that still sends the older message.
    """
    presets, models = site.presets(), await models_if_known(site)
    is_ours = site.settings.presets_file is None
    for name, preset in presets.by_name.items():
        subject = f"preset {name}"
        for finding in problems_of_pipeline(site, subject, preset.definition, preset.settings, models):
            is_for_the_old = is_ours and finding.severity is not Severity.OK
            yield info(subject, finding.found) if is_for_the_old else finding


def problems_of_pipeline(
    site: Site,
    subject: str,
    definition: PipelineDefinition,
    settings: Mapping[str, JsonValue],
    models: ModelCatalogue | None,
) -> Iterator[Finding]:
    """Yield what keeps a pipeline from running here, or that nothing does."""
    try:
        pipeline = parse(
            definition,
            site.steps(),
            settings=settings,
            models=models,
            pipeline_timeout=site.settings.pipeline_timeout,
        )
    except InvalidPipeline as wrong:
        for problem in wrong.problems:
            yield error(subject, str(problem), "a pipeline that can run")
        return
    for said in pipeline.warnings:
        yield warning(subject, said, "no warnings")
    if not pipeline.warnings:
        yield ok(subject, "can run" if models is not None else "can run, if there are models for it")


async def models_if_known(site: Site) -> ModelCatalogue | None:
    """Return the models there are; None when another check says why they are unknown."""
    try:
        return (await site.manifest()).specs()
    except Skip:
        return None
