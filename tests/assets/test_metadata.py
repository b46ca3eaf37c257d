"""What the UI shows of each asset: columns, ranges, losses, results with ids, and the way to the report."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from agui_pipelines import resources
from agui_pipelines.definitions import defs
from agui_pipelines.keyspace import KeyRange
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.comparison import KindComparison
from agui_pipelines.phases.decommission import DecommissionReport
from agui_pipelines.phases.export import RangeReport, SnapshotReport
from agui_pipelines.phases.markdown import losses, table
from agui_pipelines.phases.observation import Names
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.sample import Sample
from agui_pipelines.phases.spot_check import SpotCheck
from agui_pipelines.phases.sync import SyncReport, sync
from agui_pipelines.records import DIGESTED, Kind
from agui_pipelines.staging import Workspace
from assets import metadata
from assets.places import live_side, source_archive, target_store
from tests.assets.conftest import QUIET
from tests.integration.conftest import Move
from tests.partitions import RANGES


def told(result, asset):
    """The metadata of each materialization of an asset, by partition."""
    events = result.get_asset_materialization_events()
    found = [e.materialization for e in events if e.asset_key == dg.AssetKey(asset)]
    return {m.partition: m.metadata for m in found}


def alone(result, asset):
    [found] = told(result, asset).values()
    return found


def rows(value):
    return [record.data for record in value.records]


def markdown(value):
    """The cells of a table of Markdown, without its heads."""
    assert isinstance(value, dg.MarkdownMetadataValue)
    lines = [line for line in value.value.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_run_shows_what_people_look_for(launcher, legacy, target):
    legacy.set("session:100", '{"a": 1e5, "a": 2}')  # which the target keeps once, and as another number
    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute(
            "CREATE TABLE ag_states (state_id varchar(255) PRIMARY KEY, data jsonb NOT NULL,"
            " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())"
        )
        connection.execute("INSERT INTO ag_states VALUES ('besides', '{}'), ('007', '{}')")
    (launcher.folder / "mine.json").write_text(
        json.dumps(
            {
                "name": "mine",
                "expectations": [
                    {
                        "type": "expect_column_values_to_not_match_regex",
                        "severity": "warning",
                        "kwargs": {"column": "state_id", "regex": "^04[12]$"},
                    }
                ],
            }
        )
    )

    result = launcher.but(expectations={"staged": "mine.json"}).run()

    plan = alone(result, "migration_plan")
    ranges = rows(plan["key_ranges"])
    assert [row["range"] for row in ranges] == list(RANGES)
    assert markdown(plan["plan"])[1:5] == [[str(row[name]) for name in row] for row in ranges]
    assert (ranges[0]["from"], ranges[-1]["below"]) == ("(the first)", "(no end)")
    assert [row["below"] for row in ranges[:-1]] == [row["from"] for row in ranges[1:]]

    for asset in ("exported_snapshot", "staged_snapshot", "target_backup", "target_states"):
        found = told(result, asset)
        assert sorted(found) == list(RANGES)
        for row in ranges:
            shown = {name.removeprefix("range_"): value.value for name, value in found[row["range"]].items()}
            bounds = [shown[name] for name in ("from", "below", "ids", "weight")]
            assert bounds == [row[name] for name in ("from", "below", "keys", "weight")]
    for asset in ("exported_snapshot", "staged_snapshot"):
        schema = told(result, asset)[RANGES[0]]["dagster/column_schema"].schema
        assert [(c.name, c.type, c.constraints.nullable) for c in schema.columns] == [
            (field.name, str(field.type), field.nullable) for field in DIGESTED[Kind.STATE]
        ]
        assert all(column.description for column in schema.columns)
    states = told(result, "target_states")
    assert sum(found["range_updated"].value for found in states.values()) == 1
    assert sum(found["range_inserted"].value for found in states.values()) == 100
    assert [row["records"] for row in rows(states[RANGES[0]]["ranges"])] == [
        states[name]["range_records"].value for name in RANGES
    ]
    backup = told(result, "target_backup")[RANGES[0]]
    assert (backup["dagster/row_count"].value, len(rows(backup["backups"]))) == (1, 1)
    assert backup["seconds"].value > 0

    validation = alone(result, "validation_report")
    kept = {cells[0].partition(":")[0]: cells for cells in markdown(validation["loss_ledger"])[1:]}
    assert kept["duplicate_keys"][2:] == ["lost", "1", "0", "0", "1", "yes", "`session:100`"]
    assert {name: validation[name].value for name in ("rejects", "extra_states", "total_states")} == {
        "rejects": 0,
        "extra_states": 1,
        "total_states": 101,
    }
    assert [(row["of"], row["finding"], row["ids"]) for row in rows(validation["findings"])] == [
        ("state", "extra", "besides")
    ]
    assert [(row["kind"], row["total"], row["extra"]) for row in rows(validation["comparison"])] == [
        *(("state", 101, 1), ("version", 0, 0), ("snapshot", 0, 0)),
    ]
    suites = {(row["stage"], row["suite"]): row for row in rows(validation["expectations"])}
    assert suites.keys() == {("exported", "exported"), ("staged", "staged"), ("staged", "mine"), ("loaded", "loaded")}
    assert (suites["staged", "mine"]["failed"], suites["staged", "mine"]["ids"]) == (1, "041, 042")
    assert validation["bytes"].value > 0
    assert isinstance(validation["report_file"], dg.PathMetadataValue)
    report = json.loads(Path(validation["report_file"].value).read_text())
    assert report["plan_id"] == plan["plan_id"].value
    assert validation["snapshot_ids"].value.count("staged-") == len(RANGES)


@pytest.mark.long
def test_a_dry_run_shows_what_an_import_would_do(launcher, target):
    assert launcher.run().success
    with psycopg.connect(target["connection_url"]) as connection:
        connection.execute("UPDATE ag_states SET data = '{}' WHERE state_id IN ('003', '004')")
        connection.execute("DELETE FROM ag_states WHERE state_id = '005'")

    preview = alone(launcher.run("dry_run", dry_run=True), "import_preview")

    numbers = {name: preview[f"{name}_records"].value for name in ("insert", "overwrite", "unchanged", "untouched")}
    assert numbers == {"insert": 1, "overwrite": 2, "unchanged": 97, "untouched": 0}
    assert preview["overwritten_states"].value == "003, 004"
    assert rows(preview["records"])[0] == {"kind": "state", **numbers}
    assert {row["stage"] for row in rows(preview["expectations"])} == {"exported", "staged"}
    assert isinstance(preview["loss_ledger"], dg.MarkdownMetadataValue)


@pytest.fixture
def live(launcher):
    """The launcher, after everything was moved and the target was made live. What is deleted need not wait."""
    launcher.text["decommission"] = {"soak": "0s"}
    move = Move(launcher.text, launcher.folder)
    move.run()
    session = move.session()
    sync(session, complete=True)
    plan_id = current(session).plan_id
    outputs = {"live": "target", "plan_id": plan_id, "outcome": "done", "direction": "forward"}
    session.ledger.record(Entry("cutover", plan_id, "cutover-1", outputs=outputs))
    return launcher


def launched(launcher, job, op, **asked):
    """Runs a job of one step as the UI does, and gives what the step says of its outcome."""
    file = launcher.folder / "migration.yaml"
    file.write_text(json.dumps(launcher.text))  # which is YAML too
    resources = {"migration": {"config": {"migration_file": str(file)}}}
    run_config = {**QUIET, "ops": {op: {"config": asked}}, "resources": resources}
    result = defs.resolve_job_def(job).execute_in_process(instance=launcher.instance, run_config=run_config)
    [output] = result.filter_events(lambda event: event.event_type_value == "STEP_OUTPUT")
    return output.step_output_data.metadata


def shown_at(instance, place):
    """The metadata of whatever a job has left at a place, newest first."""
    return [r.asset_materialization.metadata for r in instance.fetch_materializations(place.key, limit=10).records]


def test_what_was_archived_and_deleted_stands_at_the_archive(live, instance):
    done = launched(live, "decommission", "source_decommission", confirm="launched")

    [shown] = shown_at(instance, source_archive)
    assert shown == done
    assert (shown["deleted"].value, shown["archived_records"].value) == (100, 100)


def test_a_rehearsed_cutover_makes_no_side_live(launcher, instance):
    launcher.text["accept_losses"] = [
        *launcher.text["accept_losses"],
        "timestamps",
    ]  # which the way back has no place for
    Move(launcher.text, launcher.folder).run()

    done = launched(launcher, "cutover", "target_cutover", rehearse=True)

    assert done["live"].value == "source"
    assert shown_at(instance, live_side) == []


def test_the_progress_of_a_step_that_is_no_asset_is_shown_at_the_place_that_it_works_on(
    launcher, instance, monkeypatch
):
    monkeypatch.setattr(resources, "OBSERVE_SECONDS", 0.0)
    Move(launcher.text, launcher.folder).run()

    launched(launcher, "verify_sample", "target_sample", sample=100)

    [outcome, *progress] = instance.fetch_observations(target_store.key, limit=100).records
    assert outcome.asset_observation.metadata["passed"].value is True
    assert {each.asset_observation.metadata["records_total"].value for each in progress} == {100}


def test_histories_have_columns_of_their_own():
    report = SnapshotReport("plan", (RangeReport("00", "exported-00", {"state": 1, "version": 2}, 9),), 1.0)

    shown = metadata.of_snapshot(report)

    assert [column.name for column in shown["version_columns"].schema.columns] == DIGESTED[Kind.VERSION].names
    assert "snapshot_columns" not in shown


def test_bounds_of_any_bytes_can_be_shown():
    shown = metadata.of_bounds(KeyRange("01", b"a\xff", b"b\n|", 5, 7, 70))

    assert shown == {"range_from": r"a\xff", "range_below": "b\n|", "range_ids": 7, "range_weight": 70}
    assert table(("below",), [(shown["range_below"],)]).splitlines()[-1] == r"| b \| |"


def test_what_is_kept_needs_no_reason_in_the_loss_ledger():
    row = {"carries": "meaning", "present": 2000, "encoded": 0, "lost": 0, "accepted": None, "examples": ["a|`b"]}

    told_ = losses([{"property": "expiry", "verdict": "kept", "kept": 2000, **row}])

    assert told_.splitlines()[-1] == r"| expiry | meaning | kept | 2,000 | 2,000 | 0 | 0 |  | `a\|'b` |"


def test_a_report_elsewhere_is_led_to_by_its_url_without_a_password(tmp_path):
    here = metadata.link(Workspace(str(tmp_path), "moved"), "reports/x.json")["report_file"]
    there = metadata.link(Workspace("memory://user:hidden@somewhere/agui", "moved"), "reports/x.json")["report_file"]

    assert here == dg.MetadataValue.path(str(tmp_path / "moved" / "reports" / "x.json"))
    assert isinstance(there, dg.UrlMetadataValue)
    assert there.value.endswith("/agui/moved/reports/x.json")
    assert "hidden" not in there.value


def spot_check_of(**states):
    kinds = {kind: KindComparison() for kind in Kind} | {Kind.STATE: KindComparison(total=9, **states)}
    return metadata.of_spot_check(SpotCheck(Sample((b"a",), 9, 1), "2026-11-23T10:00:00+00:00", kinds, 0, 1.0))


def test_a_sample_in_which_all_is_well_counts_zero_of_every_finding_so_that_charts_show_it():
    missed = spot_check_of(missing=Names(("a",), 1))
    well = spot_check_of()

    words = {f"{word}_{kind}s_count" for word in ("missing", "corrupted", "untimely") for kind in Kind}
    assert {name for name in well if name.endswith("s_count")} == words
    assert {name: well[name] for name in words} == dict.fromkeys(words, 0)
    assert {name: missed[name] for name in words} == {**dict.fromkeys(words, 0), "missing_states_count": 1}
    assert missed.keys() == well.keys()


def test_tables_name_no_more_ids_than_elsewhere_and_count_them_all():
    many = Names(tuple(f"{number:04}" for number in range(1_000)), 5_000)

    synced = metadata.of_sync(SyncReport("plan", "digest", complete=True, checked=1, conflicts=many))
    removed = metadata.of_decommission(DecommissionReport("m", "s", "backup", {}, deleted=0, gone=0, left=many))

    expected = [{"record": name} for name in many.ids[: metadata.IDS]]
    assert (rows(synced["conflicts"]), synced["conflicts_count"]) == (expected, 5_000)
    assert (rows(removed["left_records"]), removed["left"]) == (expected, 5_000)
