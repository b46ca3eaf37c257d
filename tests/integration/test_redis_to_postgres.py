"""The main job on the engine's level: a legacy Redis moved into an AG-UI store on PostgreSQL."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import (
    CollisionError,
    RejectLimitError,
    SamePlaceError,
    SpecError,
    StagingError,
    StoreError,
    TransformError,
    ValidationFailedError,
)
from agui_pipelines.phases.comparison import LIST_LIMIT
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import current, plan
from agui_pipelines.phases.transform import staged_ranges, transform
from agui_pipelines.phases.validate import require_passed, validate

DEEP = 200
RANGES = 4
OBJECTS = {
    "big integer": rb'{"n":123456789012345678901234567890,"m":-99999999999999999999,"k":18446744073709551616}',
    "long decimal": rb'{"n":0.1000000000000000055,"m":3.14159265358979323846264338327950288,"z":2.50}',
    "whole float": rb'{"n":1.0,"m":100.00}',
    "nothing": rb"{}",
    "empty names": rb'{"":"","a":{},"b":[],"c":[{}],"d":null}',
    "truth": rb'{"t":true,"f":false,"one":1,"zero":0,"text":"1"}',
    "unicode": '{"名前":"😀 café naïve привет","combining":"e\u0301","line":"\u2028\u2029","nbsp":"\u00a0"}'.encode(),
    "unicode escapes": rb'{"a":"\ud83d\ude00","b":"caf\u00e9","c":"\u0001\u001f\u007f","d":"\u003cb\u003e\u0026"}',
    "escapes": rb'{"a":"\"\\\/\b\f\n\r\t","b\t\"\\":"\\N","c":"\\.","d":"\\u0000 is text"}',
    "spread out": b'{\n  "a" : [ 1 , 2 ,\r\n\t{ "b" : "c d" } ]\n}\n',
    "deep": b'{"d":' + b"[" * DEEP + b'{"x":1}' + b"]" * DEEP + b"}",
    "wide": json.dumps({f"k{i}": i for i in range(5000)}).encode(),
    "large": b'{"text":"' + b"x\\ny" * 1_000_000 + b'"}',
    "many numbers": json.dumps({"n": [i / 7 for i in range(5000)]}).encode(),
    "looks like a number": rb'{"a":"1e5","b":"1.0,","c":".0]"}',
}
RESPELLED = {
    "exponent": rb'{"n":1e5,"m":1E5,"k":-12.5e-3}',
    "tiny": rb'{"n":1e-400}',
    "huge": rb'{"n":123E+400}',
    "negative zero": rb'{"n":-0.0,"m":-0}',
    "repeated key": rb'{"a":1,"a":{"b":1,"b":2}}',
    "repeated key after decoding": rb'{"a":1,"\u0061":2}',
}
"""What jsonb gives back spelled otherwise, or without a repeated key: the same value."""
TEXTS = {
    "word": b"logged_out",
    "number": b"1719923412",
    "array": b"[1, 2.0, 3]",
    "quoted": b'"text"',
    "null": b"null",
    "no characters": b"",
    "half an object": b'{"a": 1',
    "trailing": b'{"a":1} trailing',
    "not a number": b'{"a":NaN}',
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "tabs and lines": "a\tb\nc\\N\r\x01 é".encode(),
}
"""Strings that are no JSON objects: each becomes a document with the text in it."""
AWKWARD_IDS = {
    "tab\there": b'{"a":1}',
    "line\nhere": b'{"a":2}',
    "back\\slash\\N": b'{"a":3}',
    "\\.": b'{"a":4}',
    "quote\"'s": b'{"a":5}',
    "ユーザー:😀": b'{"a":6}',
    " blank ": b'{"a":7}',
    "a:b:c/d,e": b'{"a":8}',
    "é" * 255: b'{"a":9}',
    "session:again": b'{"a":10}',
}


def fill(legacy, states):
    legacy.mset({f"session:{name}": value for name, value in states.items()})


def sessions(count):
    return {f"{i:04}": json.dumps({"number": i}).encode() for i in range(count)}


def test_every_document_arrives_with_its_exact_value(legacy, move, target, exact):
    documents = {**OBJECTS, **RESPELLED, **AWKWARD_IDS}
    fill(legacy, {**documents, **TEXTS})
    legacy.set("other:1", b'{"not":"ours"}')

    report = move.run().validation

    wrapped = {name: {"value": text.decode(), "type": "string"} for name, text in TEXTS.items()}
    expected = {**{name: exact(document) for name, document in documents.items()}, **wrapped}
    found = {name: exact(text) for name, text in target.documents().items()}
    assert found.keys() == expected.keys()
    assert {name for name in expected if found[name] != expected[name]} == set()
    assert report.passed
    states = report.kinds["state"]
    assert (states.total, states.migrated, states.normalised) == (len(expected), len(expected), len(RESPELLED))
    assert report.error_count == report.rejected == report.vanished == states.extra.count == 0


def test_states_get_their_times_of_creation(legacy, move, target):
    fill(legacy, sessions(3))

    move.run()

    [(unknown,)] = target.execute("SELECT count(*) FROM ag_states WHERE created_at IS NULL OR updated_at IS NULL")
    assert unknown == 0


def test_an_expiry_is_counted_as_lost_as_postgresql_has_no_place_for_it(legacy, move):
    fill(legacy, sessions(5))
    legacy.expire("session:0001", 3600)
    legacy.expire("session:0003", 3600)

    report = move.run().validation

    assert report.passed
    assert report.losses == {"expiry": 2}
    assert report.to_dict()["losses"] == {"expiry": 2}


UNSTORABLE = {
    b"session:escaped NUL": (rb'{"a":"x\u0000y"}', "transform"),
    b"session:NUL in a name": (rb'{"a\u0000":1}', "transform"),
    b"session:lone surrogate": (rb'{"a":"\ud800"}', "transform"),
    b"session:low surrogate first": (rb'{"a":["\ude00\ud83d"]}', "transform"),
    b"session:surrogate in a name": (rb'{"\udfff":1}', "transform"),
    b"session:number too large": (rb'{"a":1e131072}', "transform"),
    b"session:number too fine": (rb'{"a":1e-16384}', "transform"),
    b"session:" + b"i" * 256: (b'{"a":1}', "transform"),
    b"session:" + "é".encode() * 256: (b'{"a":1}', "transform"),
    b"session:NUL\x00in the id": (b'{"a":1}', "transform"),
    b"session:\xff\xfe": (b'{"a":1}', "export"),
}


def bare(key):
    """The id as the phase that rejects it knows it: before or after the prefix was taken off."""
    return key.removeprefix(b"session:")


def test_what_cannot_be_stored_is_named_and_kept_and_nothing_is_written(legacy, move, target):
    fill(legacy, sessions(20))
    legacy.mset({key: value for key, (value, _) in UNSTORABLE.items()})
    legacy.rpush("session:a list", "x", "y\0")

    with pytest.raises(RejectLimitError) as refused:
        move.run()

    assert refused.value.exit_code == 3
    assert refused.value.data["rejected"] == len(UNSTORABLE) + 1
    names = {reject["id"] for reject in refused.value.data["rejects"]}
    assert {name.removeprefix("session:") for name in names} == {
        *(bare(key).decode("utf-8", "backslashreplace") for key in UNSTORABLE),
        "a list",
    }
    kept = {bare(key): (phase, raw) for key, (phase, _, raw) in move.rejects().items()}
    assert kept == {
        **{bare(key): (phase, value) for key, (value, phase) in UNSTORABLE.items()},
        b"a list": ("transform", rb'{"type":"list","value":["x","y\u0000"]}'),
    }
    assert target.tables() == set()


def test_keys_of_every_type_and_values_that_are_no_text_arrive(legacy, move, target):
    legacy.mset({"session:bytes": b"\xff\x00", "session:broken": b'{"a":"\xff"}'})
    legacy.hset("session:hash", mapping={"f": "v"})
    legacy.rpush("session:list", "b", "a")
    legacy.sadd("session:set", "b", "a")
    legacy.zadd("session:zset", {"m": 0.1})
    legacy.xadd("session:stream", {"f": "v"}, id="1-0")

    assert move.run().validation.passed
    assert {id_: json.loads(text)["type"] for id_, text in target.documents().items()} == {
        "bytes": "string",
        "broken": "string",
        **{name: name for name in ("hash", "list", "set", "zset", "stream")},
    }


def test_rejects_say_why(legacy, move):
    legacy.mset({key: value for key, (value, _) in UNSTORABLE.items()})

    session, made = move.stage()

    with pytest.raises(RejectLimitError) as refused:
        import_(session, made, [r.name for r in made.ranges])
    reasons = {bare(key): reason for key, (_, reason, _) in move.rejects().items()}
    assert reasons[b"escaped NUL"] == reasons[b"NUL in a name"]
    assert reasons[b"lone surrogate"] == reasons[b"surrogate in a name"] == reasons[b"low surrogate first"]
    assert reasons[b"number too large"] == reasons[b"number too fine"]
    assert reasons[b"i" * 256] == reasons["é".encode() * 256]
    assert reasons[b"\xff\xfe"] == "id_not_utf8"
    assert len(set(reasons.values())) >= 6
    assert all(reject["detail"].endswith(".") for reject in refused.value.data["rejects"])


def test_as_many_rejects_as_the_migration_allows_are_left_behind(legacy, move, target):
    fill(legacy, sessions(20))
    legacy.mset({key: value for key, (value, _) in UNSTORABLE.items()})
    number = len(UNSTORABLE)

    with pytest.raises(RejectLimitError):
        move.but(limits={"max_rejects": number - 1}).run()
    report = move.but(limits={"max_rejects": number}).run().validation

    assert report.passed
    assert (report.kinds["state"].migrated, report.rejected) == (20, number)
    assert target.documents().keys() == sessions(20).keys()


def test_raising_the_limit_goes_on_with_what_was_exported(legacy, move):
    fill(legacy, sessions(20))
    legacy.set("session:nul", rb'{"a":"\u0000"}')
    with pytest.raises(RejectLimitError):
        move.run()

    outcome = move.but(limits={"max_rejects": 1}).run()

    assert outcome.plan.resumed
    assert sum(r.resumed for r in outcome.exported.ranges) == len(outcome.plan.ranges) - 1


def test_an_id_that_is_nothing_but_the_prefix_is_rejected(legacy, move):
    legacy.mset({"session:": b'{"a":1}', "session:x": b'{"a":2}'})

    with pytest.raises(RejectLimitError, match="session:"):
        move.run()

    assert move.rejects() == {b"session:": ("transform", "empty_id", b'{"a":1}')}


def test_a_key_without_any_name_is_rejected(legacy, move):
    legacy.mset({"": b'{"a":1}', "x": b'{"a":2}'})
    everything = move.but(source={**move.text["source"], "match": "*"}, transforms=[])

    with pytest.raises(RejectLimitError, match="''"):
        everything.run()

    assert everything.rejects()[b""][1:] == ("empty_id", b'{"a":1}')


def test_ids_without_the_prefix_stay_as_they_are(legacy, move, target):
    legacy.mset({"session:x": b'{"a":1}', "user:session:y": b'{"a":2}', "session:session:z": b'{"a":3}'})

    move.but(source={**move.text["source"], "match": "*session:*"}).run()

    assert target.documents().keys() == {"x", "user:session:y", "session:z"}


def test_a_users_function_changes_ids_and_documents_without_losing_a_digit(legacy, move, target, exact):
    fill(
        legacy, {"u1": rb'{"n":123456789012345678901234567890,"d":0.1000000000000000055,"t":1e-400}', "u2": b'{"n":1}'}
    )
    (move.folder / "shapes_exact.py").write_text(
        "def upgrade(state_id, document):\n    return state_id.upper(), {**document, 'schema': 2, 'was': state_id}\n"
    )

    report = move.but(transforms=[*move.text["transforms"], {"python": "shapes_exact:upgrade"}]).run().validation

    assert report.passed
    assert {name: exact(text) for name, text in target.documents().items()} == {
        "U1": exact(
            rb'{"n":123456789012345678901234567890,"d":0.1000000000000000055,"t":1e-400,"schema":2,"was":"u1"}'
        ),
        "U2": exact(b'{"n":1,"schema":2,"was":"u2"}'),
    }


def test_a_state_for_which_the_users_function_raises_is_rejected_with_its_bytes(legacy, move, target):
    fill(legacy, {"good": b'{"a": 1}', "bad": b'{"b": 2}'})
    (move.folder / "shapes_failing.py").write_text(
        "def upgrade(state_id, document):\n    return {'a': document['a'] + 1}\n"
    )
    changed = move.but(transforms=[{"python": "shapes_failing:upgrade"}])

    with pytest.raises(RejectLimitError, match="KeyError"):
        changed.run()

    assert changed.rejects() == {b"session:bad": ("transform", "transform_failed", b'{"b": 2}')}
    assert target.tables() == set()
    report = changed.but(limits={"max_rejects": 1}).run().validation
    assert (report.passed, report.rejected) == (True, 1)
    assert target.documents() == {"session:good": '{"a": 2}'}


def test_a_failure_may_say_anything(legacy, move):
    fill(legacy, {"x": rb'{"a":"\ud800\u0000 [/red] \u2028"}'})
    (move.folder / "shapes_saying.py").write_text(
        "def fail(state_id, document):\n    raise ValueError(document['a'])\n"
    )
    failing = move.but(transforms=[{"python": "shapes_saying:fail"}])

    with pytest.raises(RejectLimitError, match=r"ValueError: .*ud800") as refused:
        failing.run()

    str(refused.value).encode()
    assert failing.rejects().keys() == {b"session:x"}


def test_a_mended_function_is_run_again_for_what_was_staged_with_the_old_one(legacy, move, target):
    fill(legacy, {"good": b'{"a":1}', "bad": b'{"b":2}'})
    module = move.folder / "shapes_mended.py"
    module.write_text("def upgrade(state_id, document):\n    return {'a': document['a'] + 1}\n")
    changed = move.but(transforms=[{"python": "shapes_mended:upgrade"}])
    with pytest.raises(RejectLimitError):
        changed.run()

    module.write_text("def upgrade(state_id, document):\n    return {'a': document.get('a', 40) + 2}\n")
    outcome = changed.run()

    assert outcome.plan.resumed
    assert target.documents() == {"session:good": '{"a": 3}', "session:bad": '{"a": 42}'}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def upgrade(state_id, document):\n    return [document]\n", "returned list for the state 'session:x'"),
        ("def upgrade(state_id, document):\n    return None\n", "returned NoneType for the state 'session:x'"),
    ],
)
def test_a_function_that_returns_no_document_ends_the_run(legacy, move, target, request, source, sentence):
    legacy.set("session:x", b"{}")
    name = f"shapes_{abs(hash(source))}"
    (move.folder / f"{name}.py").write_text(source)

    with pytest.raises(TransformError, match=sentence):
        move.but(transforms=[{"python": f"{name}:upgrade"}]).run()

    assert target.tables() == set()


@pytest.mark.parametrize("step", ["no_such_step", {"python": "no_such_module_xyz:f"}, {"python": "json:no_such"}])
def test_a_transform_that_does_not_exist_is_refused_before_anything_is_exported(legacy, move, step):
    fill(legacy, sessions(5))
    changed = move.but(transforms=[step])

    with pytest.raises(SpecError):
        changed.run()

    assert not (move.workspace / "snapshots").exists()


def test_ids_that_fall_together_are_named_and_nothing_is_written(legacy, move, target):
    fill(legacy, {**sessions(50), "Ada": b'{"a":1}', "ada": b'{"a":2}', "ADA": b'{"a":3}', "Bob": b"{}", "bob": b"{}"})
    (move.folder / "shapes_lower.py").write_text(
        "def lower(state_id, document):\n    return state_id.lower(), document\n"
    )

    with pytest.raises(CollisionError) as refused:
        move.but(transforms=[*move.text["transforms"], {"python": "shapes_lower:lower"}]).run()

    assert refused.value.exit_code == 3
    assert refused.value.data["ids"] == ["ada", "bob"]
    assert refused.value.data["sources"] == {
        "ada": ["session:ADA", "session:Ada", "session:ada"],
        "bob": ["session:Bob", "session:bob"],
    }
    assert "'ada' (from 'session:ADA', 'session:Ada', 'session:ada'), 'bob' (from 'session:Bob'" in str(refused.value)
    assert target.tables() == set()


def test_unchanged_segments_are_referenced_and_not_copied(legacy, move, target):
    fill(legacy, sessions(50))
    unchanged = move.but(transforms=["identity"])

    outcome = unchanged.run()

    assert outcome.validation.passed
    assert len(target.documents()) == 50
    session = unchanged.session()
    for snapshot in staged_ranges(session, outcome.plan).values():
        assert snapshot.manifest.parents
        assert {s.path.split("/")[0] for s in snapshot.manifest.segments} == set(snapshot.manifest.parents)
    snapshots = move.workspace / "snapshots"
    assert list(snapshots.glob("exported-*/state-*.parquet"))
    assert not list(snapshots.glob("staged-*/*.parquet"))


def test_only_segments_with_refused_records_are_copied(legacy, move, target):
    fill(legacy, sessions(50))
    legacy.set("session:0000x", rb'{"a":"\u0000"}')
    unchanged = move.but(transforms=[], limits={"max_rejects": 1})

    report = unchanged.run().validation

    assert (report.passed, report.rejected, len(target.documents())) == (True, 1, 50)
    assert len(list((move.workspace / "snapshots").glob("staged-*/state-*.parquet"))) == 1


def test_a_target_that_the_source_would_read_is_refused(legacy, move):
    fill(legacy, sessions(5))
    source = move.text["source"]
    everything = {**source, "match": "*", "connection_url": source["connection_url"].replace("127.0.0.1", "localhost")}

    with pytest.raises(SamePlaceError) as refused:
        move.but(source=everything, target={"type": "redis", "connection_url": source["connection_url"]}).run()

    assert refused.value.exit_code == 2
    assert legacy.dbsize() == 5


def test_another_part_of_the_same_server_is_another_place(legacy, move):
    fill(legacy, sessions(5))
    target = {"type": "redis", "connection_url": move.text["source"]["connection_url"]}

    assert move.but(target=target).run().validation.passed
    assert legacy.get("ag-ui:state:state:0001") == b'{"number": 1}'


def test_keys_that_vanish_after_the_plan_are_counted_and_not_missed(legacy, move, target):
    fill(legacy, sessions(40))
    session = move.session()
    made = plan(session)
    legacy.delete("session:0003", "session:0039")
    names = [r.name for r in made.ranges]
    export(session, made, names)
    transform(session, made, names)
    import_(session, made, names)

    report = validate(session, made)

    assert (report.passed, report.vanished, report.kinds["state"].total) == (True, 2, 38)
    assert len(target.documents()) == 38


def test_a_state_that_is_gone_is_missing_where_nothing_expires_even_if_its_time_is_over(legacy, move, target):
    fill(legacy, sessions(10))
    legacy.pexpireat("session:0004", int(time.time() * 1000) + 1500)
    legacy.expire("session:0005", 3600)
    outcome = move.run()
    assert outcome.validation.kinds["state"].total == 10
    target.execute("DELETE FROM ag_states WHERE state_id IN ('0004', '0005')")
    while legacy.exists("session:0004"):
        time.sleep(0.05)

    states = move.validate().kinds["state"]

    assert (states.total, states.expired, states.missing.ids) == (10, 0, ("0004", "0005"))


def test_validation_names_what_is_missing_corrupted_and_extra(legacy, move, target):
    fill(legacy, sessions(100))
    assert move.run().validation.passed
    target.execute("DELETE FROM ag_states WHERE state_id IN ('0003', '0077')")
    target.execute("""UPDATE ag_states SET data = '{"number": 41}' WHERE state_id = '0042'""")
    target.execute("""INSERT INTO ag_states (state_id, data) VALUES ('somebody else''s', '{}')""")

    report = move.validate()

    states = report.kinds["state"]
    assert states.missing.ids == ("0003", "0077")
    assert states.corrupted.ids == ("0042",)
    assert states.extra.ids == ("somebody else's",)
    assert (states.total, states.migrated) == (100, 97)
    with pytest.raises(
        ValidationFailedError, match=r"2 states missing \('0003', '0077'\).*1 state corrupted \('0042'\)"
    ):
        require_passed(report)


def test_one_digit_in_thirty_is_a_corruption(legacy, move, target):
    legacy.set("session:x", b'{"n":123456789012345678901234567890}')
    assert move.run().validation.passed
    target.execute("UPDATE ag_states SET data = '{\"n\":123456789012345678901234567891}'")

    assert move.validate().kinds["state"].corrupted.ids == ("x",)


def test_another_spelling_of_a_number_is_normalised_and_not_corrupted(legacy, move, target):
    fill(legacy, {"x": b'{"n":1.50}', "y": b'{"n":100000}', "z": b'{"n":1}'})
    assert move.run().validation.kinds["state"].normalised == 0
    target.execute("""UPDATE ag_states SET data = '{"n":1.5}' WHERE state_id = 'x'""")
    target.execute("""UPDATE ag_states SET data = '{"n":100000.00}' WHERE state_id = 'y'""")

    states = move.validate().kinds["state"]

    assert (states.migrated, states.normalised, states.corrupted.count) == (3, 2, 0)


@pytest.mark.long
def test_a_long_list_of_findings_is_cut_and_its_length_told(legacy, move, target):
    fill(legacy, sessions(LIST_LIMIT + 5))
    move.run()
    target.execute("DELETE FROM ag_states")

    public = move.validate().to_dict()

    assert len(public["missing_states"]) == LIST_LIMIT
    assert public["missing_states_count"] == LIST_LIMIT + 5
    assert public["missing_states"][:2] == ["0000", "0001"]


def test_running_again_repairs_what_validation_found(legacy, move, target, exact):
    fill(legacy, sessions(50))
    move.run()
    target.execute("DELETE FROM ag_states WHERE state_id < '0010'")
    target.execute("""UPDATE ag_states SET data = '{}' WHERE state_id = '0042'""")
    target.execute("""INSERT INTO ag_states (state_id, data) VALUES ('other', '{}')""")
    assert not move.validate().passed

    outcome = move.run()

    written = outcome.imported.written
    assert outcome.validation.passed
    assert (written.inserted, written.updated, written.unchanged) == (10, 1, 39)
    assert target.documents()["other"] == "{}"


def test_the_report_lies_in_the_workspace(legacy, move):
    fill(legacy, sessions(3))

    outcome = move.run()

    file = move.workspace / "reports" / f"{outcome.plan.plan_id}-validation.json"
    assert json.loads(file.read_bytes()) == json.loads(json.dumps(outcome.validation.to_dict()))


def test_a_dry_run_tells_what_an_import_would_do_and_creates_nothing(legacy, move, target):
    fill(legacy, sessions(30))

    report = move.dry_run()

    assert report.insert["state"] == 30
    assert (report.overwrite["state"], report.unchanged["state"], report.untouched["state"]) == (0, 0, 0)
    assert target.tables() == set()


def test_a_dry_run_tells_inserts_overwrites_and_what_stays(legacy, move, target):
    fill(legacy, sessions(30))
    move.run()
    target.execute("DELETE FROM ag_states WHERE state_id < '0005'")
    target.execute("""UPDATE ag_states SET data = '{"mine":1}' WHERE state_id IN ('0010', '0011')""")
    target.execute("""INSERT INTO ag_states (state_id, data) VALUES ('other', '{}')""")
    legacy.expire("session:0001", 3600)
    before = target.execute("SELECT *, xmin::text FROM ag_states ORDER BY 1")

    report = move.dry_run()

    assert (report.insert["state"], report.overwrite["state"]) == (5, 2)
    assert (report.unchanged["state"], report.untouched["state"]) == (23, 1)
    assert report.overwritten_states.ids == ("0010", "0011")
    assert report.losses == {"expiry": 1}
    assert target.execute("SELECT *, xmin::text FROM ag_states ORDER BY 1") == before


def test_a_dry_run_refuses_what_the_run_would_refuse(legacy, move, target):
    fill(legacy, sessions(3))
    legacy.set("session:bad", rb'{"a":"\u0000"}')

    with pytest.raises(RejectLimitError, match="bad"):
        move.dry_run()

    assert target.tables() == set()


def test_a_dry_run_is_not_resumed_as_a_migration(legacy, move, target):
    fill(legacy, sessions(10))
    move.stage(purpose="dry_run")

    outcome = move.run()

    assert not outcome.plan.resumed
    assert outcome.validation.passed
    assert len(target.documents()) == 10


def test_what_was_migrated_can_still_be_validated_after_a_dry_run(legacy, move):
    fill(legacy, sessions(10))
    move.run()
    move.dry_run()

    report = move.validate()

    assert (report.passed, report.kinds["state"].migrated) == (True, 10)


def test_an_empty_source_is_a_migration_of_nothing(move, target):
    report = move.run().validation

    assert report.passed
    assert (report.kinds["state"].total, report.kinds["state"].migrated) == (0, 0)
    assert target.documents() == {}
    assert "ag_states" in target.tables()


def test_a_plan_is_the_same_when_it_is_read_back(legacy, move):
    fill(legacy, sessions(RANGES - 2))
    made = plan(move.session())

    again = current(move.session())

    assert again == made
    assert [type(r.lower) for r in again.ranges] == [type(None), bytes, bytes, bytes]


def test_a_single_state_is_moved(legacy, move, target):
    legacy.set("session:only", b'{"a":1}')

    report = move.run().validation

    assert (report.passed, report.kinds["state"].migrated) == (True, 1)
    assert target.documents() == {"only": '{"a": 1}'}


def test_running_again_changes_nothing(legacy, move, target):
    fill(legacy, {**sessions(60), **RESPELLED, **TEXTS})
    number = 60 + len(RESPELLED) + len(TEXTS)
    first = move.run()
    rows = target.execute("SELECT *, xmin::text FROM ag_states ORDER BY 1")

    second = move.run()

    assert first.imported.written.inserted == number
    written = second.imported.written
    assert (written.inserted, written.updated, written.unchanged) == (0, 0, number)
    assert second.validation.passed
    assert target.execute("SELECT *, xmin::text FROM ag_states ORDER BY 1") == rows


def test_a_changed_state_is_updated_by_the_next_run(legacy, move, target):
    fill(legacy, sessions(20))
    move.run()
    legacy.set("session:0007", b'{"number": "seven"}')
    legacy.set("session:new", b"{}")

    outcome = move.run()

    written = outcome.imported.written
    assert (written.inserted, written.updated, written.unchanged) == (1, 1, 19)
    assert target.documents()["0007"] == '{"number": "seven"}'


def test_another_schema_holds_the_tables(legacy, move, target):
    fill(legacy, sessions(5))
    target.execute('CREATE SCHEMA "Agent States"')

    report = move.but(target={**target.config, "schema": "Agent States"}).run().validation

    assert report.passed
    assert len(target.documents('"Agent States"')) == 5
    assert target.tables() == set()


def test_a_schema_that_is_not_there_is_refused_before_anything_is_read(legacy, move, target):
    fill(legacy, sessions(5))

    with pytest.raises(StoreError, match="absent"):
        move.but(target={**target.config, "schema": "absent"}).run()

    assert not (move.workspace / "snapshots").exists()
    assert target.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = 'absent'") == []


def test_a_damaged_segment_is_not_imported(legacy, move, target):
    fill(legacy, sessions(50))
    session, made = move.stage()
    segment = next((move.workspace / "snapshots").glob("staged-02-*/state-*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-100])

    with pytest.raises(StagingError, match="damaged"):
        import_(session, made, [r.name for r in made.ranges])

    assert target.documents().keys() <= sessions(50).keys()


def test_a_damaged_manifest_is_not_believed(legacy, move, target):
    fill(legacy, sessions(50))
    session, made = move.stage()
    manifest = next((move.workspace / "snapshots").glob("staged-02-*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"records": 1', '"records": 2', 1))

    with pytest.raises(StagingError, match="checksum"):
        import_(session, made, [r.name for r in made.ranges])

    assert target.tables() == set()


def test_a_range_that_was_not_imported_cannot_be_proven(legacy, move):
    fill(legacy, sessions(50))
    session, made = move.stage()
    names = [r.name for r in made.ranges]
    import_(session, made, names[:2])

    with pytest.raises(StagingError, match="02, 03 have not been imported"):
        validate(session, made)


def test_progress_is_told_to_the_end_of_every_phase(legacy, move):
    fill(legacy, sessions(50))
    told = {}
    session = move.session()
    listening = type(session)(
        session.migration, session.workspace, session.ledger, lambda p: told.__setitem__(p.phase, (p.done, p.total))
    )
    made = plan(listening)
    names = [r.name for r in made.ranges]
    for phase in (export, transform, import_):
        phase(listening, made, names)
    validate(listening, made)

    assert told == {
        "plan": (50, 50),
        "export": (50, 50),
        "transform": (50, 50),
        "backup": (0, 0),
        "import": (50, 50),
        "validate": (50, 50),
        "expect_loaded": (50, 50),
    }


def test_nothing_in_the_workspace_can_be_read_by_others(legacy, move):
    fill(legacy, sessions(5))

    move.run()

    everything = [move.workspace.parent, *move.workspace.parent.rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in everything if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in everything if path.is_file()} == {"0o600"}


def test_a_relative_workspace_counts_from_the_migration_file(legacy, move, monkeypatch, tmp_path_factory):
    fill(legacy, sessions(5))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)

    move.run()

    assert (move.workspace / "ledger").is_dir()
    assert list(Path(elsewhere).iterdir()) == []


@pytest.mark.parametrize("name", ["my work [1] #2 100%", "ワーク", "a/deep/er/place"])
def test_a_workspace_may_have_any_name(legacy, move, name):
    fill(legacy, sessions(5))

    assert move.but(workspace=name).run().validation.passed

    assert (move.folder / name / "story" / "ledger").is_dir()


def test_a_workspace_may_be_a_url(legacy, move, target):
    fill(legacy, sessions(50))
    remote = move.but(workspace=f"memory://{move.folder.name}")

    first, second = remote.run(), remote.run()

    assert first.validation.passed
    assert second.imported.written.unchanged == 50
    assert len(target.documents()) == 50
    assert list(move.folder.iterdir()) == []


def test_the_migrations_context_is_kept_in_the_ledger(legacy, move):
    legacy.set("session:x", b"{}")

    made = move.run().plan

    entry = move.session().ledger.last("plan")
    assert entry is not None
    assert entry.outputs["context_id"] == made.context_id
    assert len(made.context_id) == 36


def test_a_password_of_either_end_is_stored_nowhere(legacy, move, monkeypatch):
    canary = "c4n4ry-9f86d081"
    monkeypatch.setenv("STORY_URL", move.text["target"]["connection_url"].replace("@", f":{canary}@"))
    fill(legacy, sessions(5))
    secretive = move.but(target={**move.text["target"], "connection_url": "${STORY_URL}"})

    assert secretive.run().validation.passed

    assert spec.parse(secretive.text, folder=move.folder).target.connection_url.get_secret_value().count(canary) == 1
    files = [file for file in move.folder.rglob("*") if file.is_file()]
    assert files
    assert [file for file in files if canary.encode() in file.read_bytes()] == []
