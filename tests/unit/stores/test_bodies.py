from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agui_pipelines import documents
from agui_pipelines.ports import Snapshot, Version
from agui_pipelines.stores.bodies import (
    SnapshotParts,
    VersionParts,
    nanoseconds,
    quoted,
    rfc3339,
    snapshot_body,
    snapshot_parts,
    split_state_id,
    unix_seconds,
    version_body,
    version_parts,
)

# The three examples of store-format.md, section 1, as Go wrote them.
VERSION = rb'{"ID":"9f86d081884c7d659a2feaa0c55ad015","Timestamp":"2025-07-14T09:30:15.123456789Z","State":{"n":3,"t":"\u003cb\u003e\u0026","z":null},"Delta":[{"op":"add","path":"/user","value":{"name":"Ada"}},{"op":"replace","path":"/z"},{"op":"move","path":"/b","from":"/a"}],"Metadata":{"source":"migration"},"ParentID":"60303ae22b998861bce3b28f33eec1be"}'
FIRST = b'{"ID":"id0","Timestamp":"2025-07-14T09:30:15.12-04:00","State":{},"Delta":null,"Metadata":null,"ParentID":""}'
SNAPSHOT = b'{"ID":"s1","Timestamp":"2025-07-14T09:30:15Z","State":{"a":[],"b":{}},"Version":"9f86d081884c7d659a2feaa0c55ad015","Metadata":{}}'

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_object = st.dictionaries(text, st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), text)).map(
    orjson.dumps
)


def joined(parts: VersionParts) -> bytes:
    return version_body(
        parts.version_id, parts.timestamp, parts.data, parts.delta, parts.metadata, parts.parent_id, parts.extra
    )


def joined_snapshot(parts: SnapshotParts) -> bytes:
    return snapshot_body(parts.snapshot_id, parts.timestamp, parts.data, parts.version_id, parts.metadata, parts.extra)


def test_a_version_is_cut_into_its_parts() -> None:
    assert version_parts(VERSION) == VersionParts(
        version_id="9f86d081884c7d659a2feaa0c55ad015",
        timestamp="2025-07-14T09:30:15.123456789Z",
        data=rb'{"n":3,"t":"\u003cb\u003e\u0026","z":null}',
        delta=b'[{"op":"add","path":"/user","value":{"name":"Ada"}},{"op":"replace","path":"/z"},{"op":"move","path":"/b","from":"/a"}]',
        metadata=b'{"source":"migration"}',
        parent_id="60303ae22b998861bce3b28f33eec1be",
        extra=None,
    )


def test_the_first_version_of_a_state_has_no_delta_no_metadata_and_an_empty_parent() -> None:
    assert version_parts(FIRST) == VersionParts("id0", "2025-07-14T09:30:15.12-04:00", b"{}", None, None, "", None)


def test_a_snapshot_is_cut_into_its_parts() -> None:
    assert snapshot_parts(SNAPSHOT) == SnapshotParts(
        "s1", "2025-07-14T09:30:15Z", b'{"a":[],"b":{}}', "9f86d081884c7d659a2feaa0c55ad015", b"{}", None
    )


@pytest.mark.parametrize("body", [VERSION, FIRST])
def test_the_parts_of_a_version_give_the_same_bytes_back(body: bytes) -> None:
    assert joined(version_parts(body)) == body


def test_the_parts_of_a_snapshot_give_the_same_bytes_back() -> None:
    assert joined_snapshot(snapshot_parts(SNAPSHOT)) == SNAPSHOT


@given(text, text, json_object, st.one_of(st.none(), st.just(b"[]")), st.one_of(st.none(), json_object), text)
@example("<&>\u2028", '\u2029\x00"\\', b'{"n":1e400,"m":-0.0}', None, b"{}", "\x7f")
def test_any_version_goes_through_its_body_and_back(
    id_: str, timestamp: str, data: bytes, delta: bytes | None, metadata: bytes | None, parent: str
) -> None:
    parts = VersionParts(id_, timestamp or "t", data, delta, metadata, parent, None)
    assert version_parts(joined(parts)) == parts


def test_no_delta_and_an_empty_delta_stay_distinct() -> None:
    bodies = [
        version_body("v", "t", b"{}", delta, metadata, "") for delta in (None, b"[]") for metadata in (None, b"{}")
    ]
    assert len(set(bodies)) == 4
    assert [(p.delta, p.metadata) for p in map(version_parts, bodies)] == [
        (None, None),
        (None, b"{}"),
        (b"[]", None),
        (b"[]", b"{}"),
    ]


def test_numbers_are_not_touched() -> None:
    data = b'{"a":123456789012345678901234567890.123456789012345678901234567890,"b":1E+5,"c":1.0,"d":-0.0,"e":1e-400}'
    parts = version_parts(b'{"ID":"v","State":' + data + b"}")
    assert parts.data == data
    assert data in joined(parts)


def test_keys_are_read_in_any_case_and_the_last_of_several_counts() -> None:
    parts = version_parts(
        b'{"id":"1","TIMESTAMP":"t","state":{"a":1},"dElta":[1],"metadata":{},"parentid":"p","ID":"2"}'
    )
    assert parts == VersionParts("2", "t", b'{"a":1}', b"[1]", b"{}", "p", None)
    assert snapshot_parts('{"ID":"s","ver\u017fion":"v"}'.encode()).version_id == "v"  # Go folds the long s too


def test_members_that_are_missing_or_null_are_what_go_makes_of_them() -> None:
    nothing = VersionParts("", "0001-01-01T00:00:00Z", b"{}", None, None, "", None)
    assert version_parts(b"{}") == nothing
    assert (
        version_parts(b'{"ID":null,"Timestamp":null,"State":null,"Delta":null,"Metadata":null,"ParentID":null}')
        == nothing
    )


def test_unknown_members_are_kept_as_one_object() -> None:
    body = '{"ID":"v","Version":7,"Weiß<":[1.0],"State":{},"x":{"y" : null}}'.encode()
    parts = version_parts(body)
    assert parts.extra is not None
    assert documents.members(parts.extra) == {"Version": b"7", "Weiß<": b"[1.0]", "x": b'{"y" : null}'}
    assert version_parts(joined(parts)) == parts


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"v"',
        b"{",
        b'{"ID":1}',
        b'{"ParentID":{}}',
        b'{"ID":"\\ud800"}',
        b"\xff{}",
        b'{"ID":"\xff"}',
    ],
)
def test_what_is_no_record_is_told(body: bytes) -> None:
    with pytest.raises(ValueError):
        version_parts(body)


@pytest.mark.parametrize(
    ("value", "is_what"),
    [
        (b'{"secret":"canary"}', "an object"),
        (b'["canary"]', "an array"),
        (b"4711", "a number"),
        (b"-4711", "a number"),
        (b"true", "a boolean"),
    ],
)
def test_of_what_is_no_record_the_member_is_told_and_not_what_it_holds(value: bytes, is_what: str) -> None:
    with pytest.raises(ValueError, match=f"^the member 'timestamp' is {is_what}, not a string$"):
        version_parts(b'{"ID":"v","Timestamp":%b}' % value)
    with pytest.raises(ValueError, match=r"^a text of 6 characters is not an RFC 3339 time$"):
        nanoseconds("canary")
    with pytest.raises(ValueError, match=r"^it is not a time of day$"):
        nanoseconds("2025-07-14T24:00:00Z")


def test_a_number_or_depth_beyond_reading_is_told_the_same_way() -> None:
    with pytest.raises(ValueError):
        version_parts(b'{"ID":"\\ud800","State":{"n":1e99999999999999999999999}}')
    with pytest.raises(ValueError):
        version_parts(b'{"ID":"v","State":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_the_state_id_is_the_last_member_and_is_found_again() -> None:
    body = version_body("v", "t", b"{}", None, None, "", b'{"x":1}', state_id='a"b')
    assert body.endswith(rb',"ParentID":"","x":1,"StateID":"a\"b"}')
    assert split_state_id(version_parts(body).extra) == ('a"b', b'{"x":1}')
    body = snapshot_body("s", "t", b"{}", "", None, state_id="")
    assert split_state_id(snapshot_parts(body).extra) == ("", None)


@pytest.mark.parametrize("extra", [None, b'{"x":1}', b'{"StateID":7}', b'{"StateID":null}', b'{"x":"StateID"}'])
def test_extra_members_without_a_state_id_stay_as_they_are(extra: bytes | None) -> None:
    assert split_state_id(extra) == (None, extra)


def test_parts_become_records_of_a_state() -> None:
    assert version_parts(FIRST).of("user-1") == Version("id0", "user-1", "2025-07-14T09:30:15.12-04:00", b"{}")
    assert snapshot_parts(SNAPSHOT).of("user-1") == Snapshot(
        "s1", "user-1", "2025-07-14T09:30:15Z", b'{"a":[],"b":{}}', "9f86d081884c7d659a2feaa0c55ad015", b"{}"
    )


@given(text)
def test_any_string_is_read_back_from_its_json_text(value: str) -> None:
    assert orjson.loads(quoted(value)) == value


def test_strings_are_escaped_as_go_escapes_them() -> None:
    assert quoted("<b>&\u2028\u2029é") == rb'"\u003cb\u003e\u0026\u2028\u2029' + 'é"'.encode()
    assert quoted("\ud800") == rb'"\ud800"'


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2025-07-14T09:30:15.123456789Z", 1752485415),
        ("2025-07-14T09:30:15.12-04:00", 1752485415 + 4 * 3600),
        ("2025-07-14T09:30:15+05:45", 1752485415 - 5 * 3600 - 45 * 60),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1969-12-31T23:59:58.000000001Z", -2),
        ("0001-01-01T00:00:00Z", -62135596800),
        ("0001-01-01T00:00:00+14:00", -62135596800 - 14 * 3600),
        ("0000-02-29T00:00:00Z", -62162121600),
        ("9999-12-31T23:59:59.999999999-23:59", 253402300799 + 23 * 3600 + 59 * 60),
        ("2024-02-29t12:00:00z", 1709208000),
        ("2025-07-14T09:30:15.1234567899999Z", 1752485415),
    ],
)
def test_unix_seconds_are_those_of_go(timestamp: str, seconds: int) -> None:
    assert unix_seconds(timestamp) == seconds


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "2025-07-14",
        "2025-07-14 09:30:15Z",
        "2025-07-14T09:30:15",
        "2025-02-29T00:00:00Z",
        "2025-00-01T00:00:00Z",
        "2025-07-14T24:00:00Z",
        "2025-07-14T09:60:00Z",
        "2025-07-14T09:30:60Z",
        "2025-07-14T09:30:15.Z",
        "٢٠٢٥-07-14T09:30:15Z",
        "2025-07-14T09:30:15Z\n",
    ],
)
def test_what_is_no_rfc_3339_time_is_told(timestamp: str) -> None:
    with pytest.raises(ValueError):
        unix_seconds(timestamp)


@given(st.integers(-62135596800 * 10**9, 253402300800 * 10**9 - 1))
@example(0)
@example(-1)
@example(1752485415120000000)
def test_a_moment_is_the_same_after_it_was_written_and_read(moment: int) -> None:
    assert nanoseconds(rfc3339(moment)) == moment


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1752485415_120000000, "2025-07-14T09:30:15.12Z"),
        (1752485415_000000001, "2025-07-14T09:30:15.000000001Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (-62135596800_000000000, "0001-01-01T00:00:00Z"),
    ],
)
def test_moments_are_written_without_trailing_zeros(moment: int, expected: str) -> None:
    assert rfc3339(moment) == expected


def test_a_moment_outside_the_calendar_is_told() -> None:
    with pytest.raises(ValueError):
        rfc3339(int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() + 1) * 10**9)
    with pytest.raises(ValueError):
        rfc3339(2**63 * 10**9)
