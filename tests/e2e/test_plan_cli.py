"""`agui-migrate plan`: a document that is written once, and that the next run carries out."""

from __future__ import annotations

import json

import psycopg
import pytest
import redis

from agui_pipelines import spec
from agui_pipelines.phases.export import export
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.timeline import TIMED


def files(folder):
    return {file.name: file.read_bytes() for file in (folder / ".agui" / "moved" / "plans").iterdir()}


def schemas(url):
    with psycopg.connect(url) as connection:
        return [
            name
            for (name,) in connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg%' AND nspname <> 'information_schema'"
            )
        ]


def require_complete(values, shown):
    """Everything that a decision needs."""
    assert values["timeline"]["measured"] is True
    low, expected, high = (values["timeline"]["total"][name] for name in ("low", "expected", "high"))
    assert 0 < low < expected < high
    assert values["strategy"]["recommended"] == values["strategy"]["asked"] == "big_bang"
    assert values["strategy"]["reasons"]
    assert values["strategy"]["maintenance_window"]["seconds"]["high"] > high
    assert all(risk["risk"] and risk["mitigation"] for risk in values["risks"])
    assert values["resources"]["workspace_bytes"] > 0
    assert values["resources"]["target_bytes"] > 0
    assert {row["property"] for row in values["loss_ledger"]} >= {"expiry", "duplicate_keys"}
    for heading in ("## Strategy", "## Timeline", "## Resources", "## Risks", "## What this route keeps"):
        assert heading in shown


def test_a_plan_is_carried_out_by_the_next_run_and_compared_with_it(
    command, text, written, documents, redis_url, postgres_url, tmp_path
):
    file = written({**text, "strategy": "big_bang"})
    planned = command("plan", file, "--json")
    assert planned.code == 0, planned.err
    values = planned.json
    kept = files(tmp_path)
    require_complete(values, kept[f"{values['plan_id']}.md"].decode())
    assert documents() is None
    assert schemas(postgres_url) == ["public"]
    with redis.Redis.from_url(redis_url) as client:
        client.set("session:late", b'{"came":"after the plan"}')

    said = command("run", file, "--json")

    assert said.code == 0, said.err
    assert said.json["plan_id"] == values["plan_id"]
    assert f"Carried out {values['plan_id']}" in said.err
    assert len(documents()) == values["volume"]["keys"] + 1
    assert files(tmp_path) == kept
    rows = {row["phase"]: row for row in said.json["timeline"]["phases"]}
    assert rows.keys() >= set(TIMED) - {"replay"}
    assert all(row["actual"] is not None and row["expected"] is not None for row in rows.values())
    assert said.json["timeline"]["total"]["actual"] > 0
    report = json.loads(next((tmp_path / ".agui" / "moved" / "reports").glob("*-validation.json")).read_text())
    assert report["timeline"]["phases"][1]["phase"] == "export"
    assert report["timeline"]["resumed"] is False

    again = command("plan", file, "--no-rehearsal", "--json").json
    assert again["plan_id"] != values["plan_id"]


def test_a_plan_without_a_rehearsal_has_no_timeline_and_its_run_compares_nothing(command, text, written, tmp_path):
    file = written(text)
    save = tmp_path / "plan.md"

    said = command("plan", file, "--no-rehearsal", "-o", save)

    assert said.code == 0, said.err
    assert "Not measured. No rehearsal was asked for." in save.read_text()
    assert command("plan", file, "-o", save).code == 2
    result = command("run", file, "--json").json
    assert result["plan_id"] in save.read_text()
    assert result["timeline"] is None


def test_planning_again_makes_another_plan_and_keeps_the_first(command, text, written, tmp_path):
    file = written(text)
    first = command("plan", file, "--no-rehearsal", "--json").json
    kept = files(tmp_path)

    second = command("plan", file, "--no-rehearsal", "--json").json

    assert second["plan_id"] != first["plan_id"]
    assert kept.items() <= files(tmp_path).items()


def test_a_plan_that_is_being_carried_out_is_shown_as_it_was_made(command, text, written, tmp_path):
    file = written(text)
    first = command("plan", file, "--no-rehearsal", "--json").json
    session = Session.open(spec.load(file))
    made = plan(session)
    export(session, made, [made.ranges[0].name])

    said = command("plan", file, "--json")

    assert said.json == first
    assert "being carried out" in said.err


def test_the_plan_of_an_interrupted_run_gets_a_document(command, text, written):
    file = written(text)
    made = plan(Session.open(spec.load(file)))

    values = command("plan", file, "--no-rehearsal", "--json").json

    assert values["plan_id"] == made.plan_id


@pytest.mark.parametrize(
    ("option", "sentence"), [({"strategy": "slowly"}, "big_bang"), ({"strategy": {"rate": 5}}, "type")]
)
def test_a_strategy_that_does_not_exist_is_refused(command, text, written, option, sentence):
    said = command("plan", written({**text, **option}))

    assert said.code == 2
    assert sentence in said.error


def test_no_password_is_in_a_plan(command, text, written, tmp_path, postgres_url):
    secret = "canary-71c2"
    url = postgres_url.replace("//postgres@", f"//postgres:{secret}@")
    said = command("plan", written({**text, "target": {**text["target"], "connection_url": url}}), "--no-rehearsal")

    assert said.code == 0, said.err
    assert secret not in said.out + said.err
    assert all(secret.encode() not in content for content in files(tmp_path).values())
