from __future__ import annotations

from typing import Any

import pytest

from agui_pipelines.records import Kind
from agui_pipelines.transforms import chain

SESSION = r"session:(?P<user>[^:]+)(:(?P<n>\d+))?"


def step(template: Any, **options: Any) -> dict[str, Any]:
    return {"rename_ids": {"template": template, **options}}


@pytest.mark.parametrize(
    ("asked", "before", "after"),
    [
        ({"rename_ids": "tenant-1/{id}"}, "a", "tenant-1/a"),
        (step("{id}{id}"), "é", "éé"),
        (step("{{{id}}}"), "a", "{a}"),
        (step("{user}-{n}", pattern=SESSION), "session:ada:7", "ada-7"),
        (step("{user}-{n}", pattern=SESSION), "session:ada", "ada-"),
        (step("{user}@{id}", pattern=SESSION), "session:ada", "ada@session:ada"),
        (step("{id}!", pattern="a.*"), "a{user}", "a{user}!"),
        (step("x{id}", pattern="(?s)a.b"), "a\nb", "xa\nb"),
        (step("{user}", pattern=SESSION, unmatched="keep"), "cart:1", "cart:1"),
        # Only a whole match is one.
        (step("{user}", pattern=SESSION, unmatched="keep"), "session:ada:x", "session:ada:x"),
        (step("{user}", pattern=SESSION, unmatched="keep"), "a session:ada", "a session:ada"),
    ],
)
def test_ids_are_made_from_the_template(asked: Any, before: str, after: str, apply: Any) -> None:
    assert apply(asked, (before, b'{ "a" : 1 }')) == ([(after, b'{ "a" : 1 }')], [])


def test_ids_that_do_not_match_are_rejected_by_name(apply: Any) -> None:
    rows = [("session:ada", b"{}"), ("cart:é", b'{"a":1}'), ("session:bob:2", b"{}")]
    kept, [reject] = apply(step("{user}-{n}", pattern=SESSION), *rows)
    assert kept == [("ada-", b"{}"), ("bob-2", b"{}")]
    assert (reject.id, reject.raw) == ("cart:é".encode(), b'{"a":1}')
    assert (reject.kind, reject.phase, reject.reason) == (Kind.STATE, "transform", "id_unmatched")
    assert reject.detail == f"rename_ids: The id 'cart:é' does not match the pattern '{SESSION}'."


def test_an_id_of_which_nothing_is_left_is_rejected(apply: Any) -> None:
    kept, rejects = apply(step("{x}", pattern="a(?P<x>.*)"), ("a", b"{}"), ("ab", b"{}"))
    assert kept == [("b", b"{}")]
    assert [(r.id, r.reason) for r in rejects] == [(b"a", "empty_id")]


def test_snapshots_follow_their_state_and_are_rejected_by_both_ids(history: Any) -> None:
    rows = [{"state_id": i, "snapshot_id": "x", "data": b'{"a" :1}'} for i in ("session:ada", "cart")]
    [out], [reject] = history(Kind.SNAPSHOT, [step("{user}", pattern=SESSION)], *rows)
    assert (out["state_id"], out["snapshot_id"], out["data"]) == ("ada", "x", b'{"a" :1}')
    assert (reject.kind, reject.id) == (Kind.SNAPSHOT, b"cart/x")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (None, "needs a template"),
        ({}, "needs a template"),
        ([], "needs a template"),
        ({"template": 5}, "needs a text as template"),
        ({"template": "{id}", "x": 1}, "needs a template, and may have a pattern and unmatched"),
        ({"template": "x"}, "else all ids would become one"),
        ("x", "else all ids would become one"),
        ("{}", "has no '{}'"),
        ("{0}", "has no '{0}'"),
        ("{id.x}", "has no '{id.x}'"),
        ("{id[0]}", "has no '{id[0]}'"),
        ("{id!r}", "has no '{id}' to put"),
        ("{id:>5}", "has no '{id}' to put"),
        ("{user}", "has no '{user}' to put into its template; there is {id}."),
        ({"template": "{usr}", "pattern": SESSION}, "there is {id}, {n}, {user}."),
        ("{id", "cannot read the template"),
        ("id}", "cannot read the template"),
        ("\ud800{id}", "needs a text as template"),
        ({"template": "{id}", "pattern": ""}, "takes a regular expression"),
        ({"template": "{id}", "pattern": 5}, "takes a regular expression"),
        ({"template": "{id}", "pattern": "("}, "cannot use the pattern '('"),
        ({"template": "{id}", "pattern": "(?P<id>.)"}, "keeps the name {id}"),
        ({"template": "{id}", "pattern": ".", "unmatched": "drop"}, "takes 'keep' or 'reject'"),
        ({"template": "{id}", "unmatched": "keep"}, "beside a pattern"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, sentence: str, refused: Any) -> None:
    said = refused({"rename_ids": options})
    assert sentence in said
    assert "rename_ids: {pattern:" in said


def test_every_option_is_in_the_fingerprint(tmp_path: Any) -> None:
    steps = [
        "{id}x",
        {"template": "{id}y"},
        {"template": "{id}x", "pattern": "a"},
        {"template": "{id}x", "pattern": "a", "unmatched": "keep"},
    ]
    assert len({chain([{"rename_ids": options}], tmp_path).fingerprint for options in steps}) == len(steps)


def test_a_fingerprint_does_not_tell_what_an_option_says(tmp_path: Any) -> None:
    # Options may come from the environment, and fingerprints are stored.
    assert "canary" not in chain([{"rename_ids": "canary{id}"}], tmp_path).fingerprint
