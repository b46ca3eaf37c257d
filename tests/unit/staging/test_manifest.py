from __future__ import annotations

import dataclasses

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_hexdigest

from agui_pipelines.errors import StagingError
from agui_pipelines.losses import Fate
from agui_pipelines.records import Kind
from agui_pipelines.staging import KindSummary, Manifest, Segment

SEGMENT = Segment("exported-00/state-00000.parquet", "state", 3, 300, 1000, "0" * 32)
MANIFEST = Manifest(
    snapshot_id="exported-00",
    stage="exported",
    plan_id="plan-1",
    range="00",
    created_at="2026-11-22T10:00:00.000+00:00",
    segments=(
        SEGMENT,
        dataclasses.replace(SEGMENT, path="exported-00/state-00001.parquet", records=4, document_bytes=40),
        dataclasses.replace(SEGMENT, path="exported-00/version-00000.parquet", kind="version", records=5),
    ),
    rejects=1,
    rejects_segment=dataclasses.replace(SEGMENT, path="exported-00/rejects.parquet", kind="reject"),
    vanished=2,
    parents=("exported-0",),
    transform='strip_prefix:"é',
    fates={"expiry": Fate(4, 0, 3, ("a", "b")), "layout": Fate(9)},
)


@pytest.mark.parametrize(
    "manifest", [MANIFEST, dataclasses.replace(MANIFEST, segments=(), rejects_segment=None, parents=(), fates={})]
)
def test_a_manifest_comes_back_as_it_was_written(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json(), "here") == manifest


def test_sums_are_those_of_the_segments() -> None:
    assert MANIFEST.summary(Kind.STATE) == KindSummary(records=7, document_bytes=340)
    assert MANIFEST.summary(Kind.VERSION) == KindSummary(records=5, document_bytes=300)
    assert MANIFEST.summary(Kind.SNAPSHOT) == KindSummary()
    assert (MANIFEST.records, MANIFEST.document_bytes) == (12, 640)


def test_a_manifest_cut_anywhere_is_damaged() -> None:
    content = MANIFEST.to_json()
    for length in range(len(content)):
        with pytest.raises(StagingError, match=r"The manifest m\.json is damaged"):
            Manifest.from_json(content[:length], "m.json")


def test_a_manifest_with_any_one_byte_changed_is_damaged() -> None:
    content = MANIFEST.to_json()
    for at in range(len(content)):
        for flip in (0x01, 0x20, 0x80):
            changed = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            with pytest.raises(StagingError, match="damaged"):
                Manifest.from_json(changed, "m.json")


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=30)
    | st.sampled_from(
        [b"null", b"[]", b"{}", b'"manifest":', b'{"manifest":{}}', b'{"checksum":"","manifest":{}}', b"1"]
    )
)
def test_what_is_no_manifest_is_called_damaged(content: bytes) -> None:
    with pytest.raises(StagingError, match="damaged"):
        Manifest.from_json(content, "m.json")


def sealed(body: bytes) -> bytes:
    return orjson.dumps({"checksum": xxh3_128_hexdigest(body), "manifest": orjson.Fragment(body)})


@pytest.mark.parametrize(
    "body", [b"{}", b"null", b"[]", b'"text"', b"5", b'{"format":1}', b'{"format":1,"segments":[5]}']
)
def test_a_body_of_another_shape_is_damaged_even_if_its_checksum_is_right(body: bytes) -> None:
    with pytest.raises(StagingError, match="damaged"):
        Manifest.from_json(sealed(body), "m.json")


def test_a_manifest_of_a_later_format_is_refused() -> None:
    values = orjson.loads(MANIFEST.to_json())["manifest"]
    with pytest.raises(StagingError, match="format is not known"):
        Manifest.from_json(sealed(orjson.dumps({**values, "format": values["format"] + 1})), "m.json")


def test_a_manifest_with_a_field_too_many_is_refused() -> None:
    values = orjson.loads(MANIFEST.to_json())["manifest"]
    with pytest.raises(StagingError, match="damaged"):
        Manifest.from_json(sealed(orjson.dumps({**values, "surprise": 2})), "m.json")
