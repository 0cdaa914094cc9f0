"""Give every plant, seen or estimated, one of the species that were planted."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, StringConstraints

from pipeline_steps.artifact import NOTHING
from pipeline_steps.artifacts import Detections, PlantEstimates, Species
from pipeline_steps.geometry import reading_order
from pipeline_steps.names import one_or_many
from pipeline_steps.registry import StepParams, setting, step

SpeciesName: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=92)]
"""The backend takes 100 characters of `species_{name}`."""


class SpeciesDistributorParams(StepParams):
    """Which species, and how they are dealt out."""

    species: Annotated[tuple[SpeciesName, ...], BeforeValidator(one_or_many)] = setting(
        "species", (), description="The species planted, in order; a single name may stand alone."
    )
    mode: Literal["round_robin", "block"] = Field(
        default="round_robin",
        description="`round_robin`: one plant after the other, in turn. `block`: each species one contiguous "
        "block, of equal sizes.",
    )


@step("species_distributor")
def distribute(
    detections: Detections, estimates: PlantEstimates | None, params: SpeciesDistributorParams
) -> Species:
    """Give every plant, seen or estimated, one of the species that were planted.

    Plants are taken as one reads: lines from the top, each from left to right, never by score; estimated
    ones follow, without a place. `round_robin` deals the species in turn. `block` gives each `total // n`
    plants in a row, the first `total % n` species one more. Without species nothing is distributed.
    """
    if not params.species:
        return Species.none()
    estimated = int(estimates.count.sum()) if estimates is not None else 0
    seen = detections.id[reading_order(detections.xyxy)]
    plants = np.concatenate([seen, np.full(estimated, NOTHING, np.int64)])
    return Species(plants, np.array(params.species)[_turns(len(plants), len(params.species), params.mode)])


def _turns(plants: int, species: int, mode: Literal["round_robin", "block"]) -> npt.NDArray[np.intp]:
    """Return which species each plant gets, by its number."""
    if mode == "round_robin":
        return np.arange(plants) % species
    base, more = divmod(plants, species)
    sizes = np.full(species, base)
    sizes[:more] += 1
    return np.repeat(np.arange(species), sizes)
