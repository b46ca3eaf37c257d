from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from agui_pipelines import documents
from agui_pipelines.records import STATE, VERSION, Kind, Reject
from agui_pipelines.transforms import chain

CREATED, UPDATED, MIGRATED = "2024-01-02T03:04:05.123456789Z", "2025-06-07T08:09:10+02:00", "2026-11-22T10:00:00Z"
ALL = {"original_created_at": CREATED, "original_updated_at": UPDATED, "migrated_at": MIGRATED}


def through(
    document: bytes, options: Any, created_at: str | None = CREATED, updated_at: str | None = UPDATED
) -> tuple[list[bytes], list[Reject]]:
    rejects: list[Reject] = []
    row = {"state_id": "s", "data": document, "created_at": created_at, "updated_at": updated_at}
    steps = chain([{"add_migration_metadata": options}], Path())
    out = steps.apply(Kind.STATE, pa.RecordBatch.from_pylist([row], schema=STATE), rejects.append)
    assert all((r["created_at"], r["updated_at"]) == (created_at, updated_at) for r in out.to_pylist())
    return out.column("data").to_pylist(), rejects


@pytest.mark.parametrize(
    ("options", "created_at", "updated_at", "names"),
    [
        ({"migrated_at": MIGRATED}, CREATED, UPDATED, ["original_created_at", "original_updated_at", "migrated_at"]),
        (None, CREATED, UPDATED, ["original_created_at", "original_updated_at"]),
        ({}, None, UPDATED, ["original_updated_at"]),
        ({"migrated_at": MIGRATED}, None, None, ["migrated_at"]),
    ],
)
def test_the_times_that_are_known_are_put_into_the_document(
    options: Any, created_at: str | None, updated_at: str | None, names: list[str]
) -> None:
    [data], _ = through(b'{"n":1.50}', options, created_at, updated_at)
    expected = documents.dumps({name: ALL[name] for name in names})
    assert data == b'{"n":1.50,"_migration":%b}' % expected


@pytest.mark.parametrize("document", [b'{ "n" : 1e5 }', b'{ "_migration" : null }'])
def test_without_any_time_a_document_keeps_its_bytes(document: bytes) -> None:
    if b"null" in document:
        assert through(document, None, None, None)[0] == []
    else:
        assert through(document, None, None, None) == ([document], [])


def test_what_an_earlier_migration_said_stays() -> None:
    document = (
        b'{ "_migration" : {"original_created_at": "1999-01-01T00:00:00Z", "migrated_at": null, "x": 1}, "n": 1 }'
    )
    [data], _ = through(document, {"migrated_at": MIGRATED})
    assert documents.loads(data) == {
        "_migration": {
            "original_created_at": "1999-01-01T00:00:00Z",
            "migrated_at": None,
            "x": 1,
            "original_updated_at": UPDATED,
        },
        "n": 1,
    }
    assert through(data, {"migrated_at": MIGRATED}) == ([data], [])


@pytest.mark.parametrize("value", [b"null", b"1", b'"text"', b"[]"])
def test_a_member_that_is_no_object_is_not_overwritten(value: bytes) -> None:
    document = b'{"_migration":%b}' % value
    kept, [reject] = through(document, None)
    assert (kept, reject.raw, reject.reason) == ([], document, "member_exists")


def test_versions_stay_untouched(history: Any) -> None:
    row = {"state_id": "s", "version_id": "v", "data": b'{ "n":1 }'}
    [out], rejects = history(Kind.VERSION, ["add_migration_metadata"], row)
    assert (out["data"], rejects, set(out)) == (row["data"], [], set(VERSION.names))


@pytest.mark.parametrize(
    "options",
    [
        5,
        [],
        "2026-11-22T10:00:00Z",
        {"migrated_at": None},
        {"migrated_at": "today"},
        {"migrated_at": "2026-11-22"},
        yaml.safe_load("{migrated_at: 2026-11-22T10:00:00Z}"),
        {"migrated": MIGRATED},
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, refused: Any) -> None:
    assert refused({"add_migration_metadata": options}) == (
        "The transform 'add_migration_metadata' takes nothing but migrated_at, an RFC 3339 time in quotes: "
        'add_migration_metadata: {migrated_at: "2026-11-22T10:00:00Z"}.'
    )


def test_it_is_the_same_step_each_time_unless_the_time_is_another() -> None:
    steps = [None, {"migrated_at": MIGRATED}, {"migrated_at": "2026-11-22T10:00:01Z"}]
    one, other, later = (chain([{"add_migration_metadata": options}], Path()).fingerprint for options in steps)
    assert len({one, other, later}) == 3
    assert chain(["add_migration_metadata"], Path()).fingerprint == one
