"""docs/doctor.md lists every check, as the code has it."""

from __future__ import annotations

import re

from consumer.doctor.examination import CATALOGUE
from consumer.settings import Settings
from tools.doctor_table import DOCUMENT, rendered


def test_the_table_of_checks_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == rendered(DOCUMENT.read_text()), "run python -m tools.doctor_table"


def test_every_check_has_an_id_of_its_own_and_says_what_and_why() -> None:
    ids = [check.id for check in CATALOGUE]

    assert len(set(ids)) == len(ids)
    assert [name for name in ids if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []
    assert [check.id for check in CATALOGUE if not (check.what.endswith(".") and check.why)] == []
    assert [check.id for check in CATALOGUE if not check.fix] == ["permissions.identity"]


def test_every_setting_that_is_named_exists() -> None:
    known = {name.upper() for name in Settings.model_fields}
    words = " ".join(f"{check.what} {check.why} {check.fix}" for check in CATALOGUE)
    named = set(re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)+\b", words))

    assert named - known - {"OBJECT_FINALIZE"} == set()
