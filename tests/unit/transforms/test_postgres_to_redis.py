from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agui_pipelines.records import Kind, instant
from agui_pipelines.transforms import chain
from agui_pipelines.transforms.postgres_to_redis import rfc3339

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2025-07-14 09:30:15+00", "2025-07-14T09:30:15Z"),
        ("2025-07-14 09:30:15.123456+00", "2025-07-14T09:30:15.123456Z"),
        ("2025-07-14 09:30:15.1234567890+00", "2025-07-14T09:30:15.1234567890Z"),
        ("2025-07-14 09:30:15.100-04", "2025-07-14T09:30:15.100-04:00"),
        ("2025-07-14 09:30:15+05:30", "2025-07-14T09:30:15+05:30"),
        ("2025-07-14 09:30:15-0330", "2025-07-14T09:30:15-03:30"),
        ("2025-07-14T09:30:15+00:00", "2025-07-14T09:30:15Z"),
        ("2025-07-14T09:30:15.5+00", "2025-07-14T09:30:15.5Z"),
        # A time from before time zones, as PostgreSQL shows it in Amsterdam.
        ("1890-01-01 00:00:00.25+00:19:32", "1889-12-31T23:40:28.25Z"),
        ("0300-01-01 00:00:00+00:19:32", "0299-12-31T23:40:28Z"),
        ("2025-07-14T09:30:15Z", "2025-07-14T09:30:15Z"),
        ("2025-07-14T09:30:15.120-04:00", "2025-07-14T09:30:15.120-04:00"),
    ],
)
def test_a_timestamp_becomes_rfc_3339(before: str, after: str, apply: Any) -> None:
    rows = ("s", b'{"created_at":"%b","updated_at":"%b"}' % (before.encode(), before.encode()))
    expected = b'{"created_at":"%b","updated_at":"%b"}' % (after.encode(), after.encode())
    assert apply("postgres_to_redis", rows) == ([("s", expected)], [])


@settings(max_examples=300, deadline=None)
@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)),  # noqa: DTZ001 - offsets come below
    st.integers(-15 * 3600, 15 * 3600),
)
def test_it_is_the_same_moment(moment: datetime, offset: int) -> None:
    sign, rest = ("-" if offset < 0 else "+"), abs(offset)
    parts = [f"{rest // 3600:02}", f"{rest % 3600 // 60:02}", f"{rest % 60:02}"]
    while len(parts) > 1 and parts[-1] == "00":
        parts.pop()
    before = moment.isoformat(" ") + sign + ":".join(parts)
    after = rfc3339(before)
    assert after is not None
    assert RFC3339.fullmatch(after)
    assert datetime.fromisoformat(after) == datetime.fromisoformat(before + (":00" if len(parts) == 1 else ""))
    assert instant(after).endswith("Z")


@pytest.mark.parametrize(
    "value",
    [
        b'"infinity"',
        b'"-infinity"',
        b'"10000-01-01 00:00:00+00"',
        b'"0044-03-15 12:00:00+00 BC"',
        b'"2025-02-30 00:00:00+00"',
        b'"2025-07-14 25:00:00+00"',
        b'"2025-07-14 09:30:15+99"',
        b'"2025-07-14"',
        b'"2025-07-14t09:30:15z"',
        b'" 2025-07-14 09:30:15+00"',
        b'"yesterday"',
        b"1752485415.5",
        b"null",
        b"{}",
        b'["2025-07-14 09:30:15+00"]',
    ],
)
def test_what_is_no_timestamp_keeps_the_documents_bytes(value: bytes, apply: Any) -> None:
    document = b'{ "created_at" : %b, "text": "2025-07-14 09:30:15+00" }' % value
    assert apply("postgres_to_redis", ("s", document)) == ([("s", document)], [])


def test_a_time_without_an_offset_is_rejected_unless_it_is_said_how_to_take_it(apply: Any) -> None:
    document = b'{ "updated_at" : "2025-07-14 09:30:15.50" }'
    kept, [reject] = apply("postgres_to_redis", ("s", document))
    assert (kept, reject.raw, reject.reason) == ([], document, "no_offset")
    assert "'/updated_at'" in reject.detail
    utc = apply({"postgres_to_redis": {"without_offset": "utc"}}, ("s", document))
    assert utc == ([("s", b'{"updated_at":"2025-07-14T09:30:15.50Z"}')], [])
    assert apply({"postgres_to_redis": {"without_offset": "keep"}}, ("s", document)) == ([("s", document)], [])


def test_the_paths_of_the_timestamps_can_be_named(apply: Any) -> None:
    time = b'"2025-07-14 09:30:15+00"'
    document = b'{"created_at":%b,"user":{"seen":%b},"log":[%b,5]}' % (time, time, time)
    step = {"postgres_to_redis": {"timestamps": ["user.seen", "log.0", "log.1", "log.7", "missing.x"]}}
    new = b'"2025-07-14T09:30:15Z"'
    expected = b'{"created_at":%b,"user":{"seen":%b},"log":[%b,5]}' % (time, new, new)
    assert apply(step, ("s", document)) == ([("s", expected)], [])
    assert apply({"postgres_to_redis": {"timestamps": []}}, ("s", document)) == ([("s", document)], [])


def test_metadata_is_flattened_and_collides_as_flatten_metadata_has_it(apply: Any) -> None:
    rows = [
        ("1", b'{"metadata":{"a":1.50,"b":{}},"z":1}'),
        ("2", b'{ "metadata" : [1] }'),
        ("3", b'{"metadata":{"a":1},"meta_a":2}'),
    ]
    kept, [reject] = apply("postgres_to_redis", *rows)
    assert kept == [("1", b'{"meta_a":1.50,"meta_b":{},"z":1}'), rows[1]]
    assert (reject.id, reject.reason) == (b"3", "member_exists")


def test_versions_change_alike(history: Any) -> None:
    row = {"state_id": "s", "version_id": "v", "timestamp": "2025-07-14 09:30:15+00", "delta": b"[ ]"}
    data = b'{"created_at":"2025-07-14 09:30:15+00","metadata":{"a":1}}'
    [out], _ = history(Kind.VERSION, ["postgres_to_redis"], {**row, "data": data})
    assert out["data"] == b'{"created_at":"2025-07-14T09:30:15Z","meta_a":1}'
    assert {name: out[name] for name in row} == row


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (5, "takes nothing but timestamps and without_offset"),
        ([], "takes nothing but timestamps and without_offset"),
        ({"fields": []}, "takes nothing but timestamps and without_offset"),
        ({"without_offset": "UTC"}, "takes reject, keep or utc"),
        ({"timestamps": "created_at"}, "takes a list of paths"),
        ({"timestamps": [""]}, "cannot use one of the paths"),
        ({"timestamps": [5]}, "cannot use one of the paths"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any) -> None:
    said = refused({"postgres_to_redis": options})
    assert sentence in said
    assert "postgres_to_redis: {timestamps: [created_at, user.last_seen], without_offset: utc}" in said


def test_every_option_is_in_the_fingerprint() -> None:
    steps = [None, {"timestamps": []}, {"timestamps": ["a"]}, {"without_offset": "utc"}, {"without_offset": "keep"}]
    assert len({chain([{"postgres_to_redis": options}], Path()).fingerprint for options in steps}) == len(steps)
