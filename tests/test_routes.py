"""Routes are checked before the first photo lands."""

from __future__ import annotations

import pytest

from consumer.models.manifest import parse_manifest
from consumer.routes import InvalidRoutes, check_routes, parse_routes
from pipeline_steps.loading import load_steps

FILE = {
    "routes": [
        {"bucket": "drop", "prefix": "{tenant_id}/originals/", "pipeline": {"steps": []}, "match": ".*"}
    ]
}


def test_a_route_from_a_bucket_that_may_not_be_read_is_refused_at_the_start() -> None:
    routes = parse_routes(FILE, "routes.yaml")
    steps, models = load_steps(), parse_manifest(b"models: []", base="models").specs()

    with pytest.raises(InvalidRoutes, match=r"routes\.0\.bucket: 'drop' is not one of \['photos'\]"):
        check_routes(routes, steps, models, {"photos"})
    check_routes(routes, steps, models, {"photos", "drop"})
