"""What a look keeps of histories; see `phases.seen`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from agui_pipelines.digests import digest_values
from agui_pipelines.phases.seen import History
from agui_pipelines.records import VERSION, Kind, Reject


def row(name: str, **changes: Any) -> dict[str, Any]:
    told = {"state_id": "s", "version_id": name, "timestamp": "2025-01-01T00:00:00Z", "data": b"{}"}
    return {**told, "parent_id": "", "delta": None, "metadata": None, "extra": None, **changes}


def digests(*rows: dict[str, Any]) -> dict[bytes, bytes]:
    history = History()
    batch = pa.RecordBatch.from_pylist(list(rows), VERSION)
    raw = digest_values(batch.column("data")).raw
    history.add(Kind.VERSION, batch, [raw[i : i + 16] for i in range(0, len(raw), 16)])
    return history.digests()


def test_the_order_of_a_history_does_not_matter_and_its_length_does() -> None:
    assert digests(row("a"), row("b")) == digests(row("b"), row("a"))
    assert digests(row("a"), row("a")) != digests(row("a"))
    assert digests(row("a"), row("b")).keys() == {b"s"}


@pytest.mark.parametrize(
    "change",
    [
        {"version_id": "b"},
        {"timestamp": "2025-01-01T00:00:01Z"},
        {"data": b"[]"},
        {"delta": b"null"},
        {"delta": b""},
        {"metadata": b"{}"},
        {"parent_id": "p"},
        {"extra": b"{}"},
    ],
)
def test_whatever_changes_of_a_record_changes_the_digest(change: dict[str, Any]) -> None:
    assert digests(row("a", **change)) != digests(row("a"))


def test_what_one_member_loses_another_does_not_win() -> None:
    assert digests(row("a", delta=b"xy", metadata=b"z")) != digests(row("a", delta=b"x", metadata=b"yz"))


def test_what_cannot_be_read_counts_where_it_is_known_whose_it_is() -> None:
    history = History()
    history.reject(Reject(Kind.STATE, b"s", b"raw", "export", "wrong_type", ""))
    history.reject(Reject(Kind.VERSION, b"s/v", b"raw", "export", "missing_body", ""))
    history.reject(Reject(Kind.STATE, b"NULL", None, "export", "null_id", ""))
    assert history.digests().keys() == {b"s"}
