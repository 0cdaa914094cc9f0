"""Which plant gets which species."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.artifacts import Detections, Species
from pipeline_steps.findings.species_distributor import SpeciesDistributorParams, distribute
from tests.pipeline_steps.fakes import detections_of
from tests.pipeline_steps.findings.test_count import estimates


def grid(columns: int, rows: int, score: list[float] | None = None) -> Detections:
    """Return plants in rows and columns; the id counts them as one reads, from 1."""
    boxes = [(x * 30, y * 40, x * 30 + 20, y * 40 + 20) for y in range(rows) for x in range(columns)]
    return detections_of(boxes, score=score)


def run(detections: Detections, estimated: int = 0, **params: object) -> Species:
    chosen = SpeciesDistributorParams.model_validate(params)
    return distribute(detections, estimates(estimated) if estimated else None, chosen)


def test_species_take_turns_as_one_reads() -> None:
    found = run(grid(3, 2), species=["rosa", "aloe"])

    assert found.detection.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.species.tolist() == ["rosa", "aloe", "rosa", "aloe", "rosa", "aloe"]


@pytest.mark.parametrize("mode", ["round_robin", "block"])
def test_scores_and_their_order_change_nothing(mode: str) -> None:
    plants = grid(4, 3)
    shuffled = plants.take(np.random.default_rng(5).permutation(12))

    straight = run(plants, species=["a", "b", "c"], mode=mode)

    assert run(shuffled, species=["a", "b", "c"], mode=mode) == straight


def test_blocks_are_contiguous_and_the_first_ones_one_longer() -> None:
    found = run(grid(4, 2), species=["a", "b", "c"], mode="block")

    assert found.species.tolist() == ["a"] * 3 + ["b"] * 3 + ["c"] * 2


def test_blocks_go_on_over_estimated_plants_which_come_last() -> None:
    found = run(grid(3, 1), estimated=4, species=["a", "b"], mode="block")

    assert found.species.tolist() == ["a"] * 4 + ["b"] * 3
    assert found.detection.tolist() == [1, 2, 3, 0, 0, 0, 0]


def test_estimated_plants_take_turns_too() -> None:
    found = run(grid(3, 1), estimated=2, species=["a", "b"])

    assert found.species.tolist() == ["a", "b", "a", "b", "a"]


def test_more_species_than_plants_leave_some_without() -> None:
    assert run(grid(2, 1), species=["a", "b", "c"], mode="block").species.tolist() == ["a", "b"]


def test_a_bare_string_is_one_species() -> None:
    assert set(run(grid(2, 2), species="rosa").species.tolist()) == {"rosa"}


def test_without_species_or_plants_nothing_is_distributed() -> None:
    assert len(run(grid(2, 2))) == 0
    assert len(run(Detections.none(), species=["a"])) == 0


@pytest.mark.parametrize("species", [[""], ["x" * 93], [1]])
def test_names_that_no_backend_takes_are_refused(species: list[object]) -> None:
    with pytest.raises(ValueError, match="species"):
        SpeciesDistributorParams.model_validate({"species": species})


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 7), st.sampled_from(["round_robin", "block"]))
def test_all_plants_are_given_out_and_shares_differ_by_one_at_most(
    seen: int, estimated: int, species: int, mode: str
) -> None:
    names = [f"s{i}" for i in range(species)]

    found = run(grid(seen, 1), estimated, species=names, mode=mode)

    shares = [found.species.tolist().count(name) for name in names]
    assert sum(shares) == seen + estimated
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)
