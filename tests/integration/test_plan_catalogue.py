"""The list of keys that a plan was cut from is read as it was written, or not at all."""

from __future__ import annotations

import pytest

from agui_pipelines.errors import StagingError
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.export import export
from agui_pipelines.phases.plan import current, plan


@pytest.fixture
def planned(move, legacy):
    """A plan of ten keys; its session and the file with its catalogue."""
    legacy.mset({f"session:{number}": "{}" for number in range(10)})
    session = move.session()
    made = plan(session)
    return session, made, move.workspace / made.catalogue


def names(made):
    return [r.name for r in made.ranges]


def test_a_catalogue_that_is_damaged_is_not_read(planned):
    session, made, file = planned
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(StagingError, match="catalogue") as refused:
        export(session, made, names(made))

    assert "--fresh" in refused.value.remedy


def test_a_plan_of_an_earlier_version_has_no_checksum_and_is_read(planned):
    session, made, _ = planned
    entry = session.ledger.last("plan")
    outputs = {name: value for name, value in entry.outputs.items() if name != "catalogue_checksum"}
    session.ledger.record(Entry("plan", made.plan_id, outputs=outputs))
    old = current(session)

    assert old.catalogue_checksum == ""
    assert export(session, old, names(old)).records == 10
