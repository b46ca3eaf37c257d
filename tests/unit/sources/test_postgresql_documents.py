"""Rows of a table as states, batch by batch."""

from __future__ import annotations

import json
from collections import Counter
from itertools import accumulate, pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.ports import BATCH_BYTES
from agui_pipelines.sources.postgresql_documents import ROW, once, states
from agui_pipelines.sources.postgresql_selection import Holds

MOMENT = "2026-11-22T12:30:00.000Z"


def rows(*values: tuple[str, bytes], created: str | None = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [{"id": id_, "document": document, "created": created, "updated": None} for id_, document in values], schema=ROW
    )


def no_reject(*parts: object) -> None:
    pytest.fail(f"unexpected reject {parts}")


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.lists(st.integers(1, 6), min_size=40, max_size=40))
def test_a_row_passes_exactly_if_no_other_has_its_id_however_the_batches_are_cut(
    ids: list[str], sizes: list[int]
) -> None:
    ordered = [(id_, b"%d" % i) for i, id_ in enumerate(sorted(ids))]
    cuts = [0, *accumulate(sizes)]
    batches = [rows(*ordered[start:end]) for start, end in pairwise(cuts) if ordered[start:end]]
    rejected: list[tuple[str, bytes | None]] = []
    passed = [
        (row["id"], row["document"])
        for batch in once(batches, lambda id_, raw, *_: rejected.append((id_, raw)))
        for row in batch.to_pylist()
    ]
    count = Counter(ids)
    assert passed == [row for row in ordered if count[row[0]] == 1]
    assert rejected == [row for row in ordered if count[row[0]] > 1]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "_migration", "_migration2", ""]) | st.text(), _JSON, max_size=4),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([Holds.JSON, Holds.JSONB, Holds.TEXT]),
    st.sampled_from([None, 1]),
)
def test_the_member_is_added_and_everything_else_stays(
    documents: list[dict[str, object]], holds: Holds, indent: int | None
) -> None:
    # jsonb has no needless escapes, and nothing around its braces.
    texts = [
        json.dumps(d, indent=None if holds is Holds.JSONB else indent, ensure_ascii=holds is not Holds.JSONB).encode(
            "utf-8", "surrogatepass"
        )
        for d in documents
    ]
    batch = rows(*((str(i), text) for i, text in enumerate(texts)), created="2020-01-01T00:00:00Z")
    found = [json.loads(v) for v in states(batch, holds, MOMENT, no_reject).column("data").to_pylist()]
    added = {"original_created_at": "2020-01-01T00:00:00Z", "migrated_at": MOMENT}
    for before, after in zip(documents, found, strict=True):
        old = before.get("_migration", {})
        old = old if isinstance(old, dict) else {"value": old}
        assert after == {**before, "_migration": {**added, **old}}


@pytest.mark.parametrize("end", [b"}", b',"_migration":{}}', b"}\n"])
def test_a_large_document_gets_the_member_too(end: bytes) -> None:
    document = b'{"t":"%b"%b' % (b"x" * (BATCH_BYTES + 1), end)
    [found] = states(rows(("a", document)), Holds.JSON, MOMENT, no_reject).column("data").to_pylist()
    assert json.loads(found) == {**json.loads(document), "_migration": {"migrated_at": MOMENT}}
