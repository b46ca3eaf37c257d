"""What the definitions take from a migration file, whatever it holds."""

from __future__ import annotations

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agui_pipelines import spec
from assets.declared import declared, kind


@pytest.fixture
def written(tmp_path, monkeypatch):
    file = tmp_path / "migration.yaml"
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))
    return file.write_text


def test_without_a_file_all_is_as_it_is_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv(spec.FILE_VARIABLE, str(tmp_path / "nowhere.yaml"))

    assert (declared("owners"), declared("tags"), declared("schedules")) == (("team:platform",), {}, spec.Schedules())
    assert (kind("source"), kind("target")) == ("database", "database")


def test_variables_are_resolved(written, monkeypatch):
    monkeypatch.setenv("SYNC_CRON", "0 2 * * 0")
    written("schedules: {sync: '${SYNC_CRON}', verify: '0 5 * * *'}")

    found = declared("schedules")
    assert (found.sync, found.verify) == ("0 2 * * 0", "0 5 * * *")


@pytest.mark.parametrize(
    "text",
    [
        "schedules: {sync: '0 0 31 2 *'}",  # a day that never comes
        "schedules: {sync: '${NOT_SET_ANYWHERE}'}",
        "schedules: {max_lag: 90s}",
        "schedules: {max_lag: 99999999999h}",
        "schedules: often",
    ],
)
def test_what_dagster_could_not_load_is_as_if_nothing_were_said(written, text):
    written(text)

    assert declared("schedules") == spec.Schedules()


NUMBERS = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
WORDS = [[], [], ["L", "5L", "LW"], ["jan", "Dec"], ["sun", "FRI", "mon#2", "5L"]]


@st.composite
def cron_lines(draw):
    """Most of which are cron lines, and some that nearly are."""

    def part(bounds, words):
        one = st.one_of(st.integers(*bounds).map(str), st.integers(0, 70).map(str), *map(st.just, words))
        base = draw(st.one_of(st.just("*"), one, st.tuples(one, one).map("-".join)))
        return base + draw(st.one_of(st.just(""), st.integers(0, 70).map(lambda step: f"/{step}")))

    fields = zip(NUMBERS, WORDS, strict=True)
    return " ".join(",".join(part(*of) for _ in range(draw(st.integers(1, 2)))) for of in fields)


@pytest.mark.filterwarnings("ignore:Found a cron schedule with an interval")
@settings(max_examples=300)
@given(line=cron_lines())
def test_a_cron_line_of_a_migration_file_is_one_that_dagster_loads(line):
    try:
        taken = spec.Schedules(sync=line).sync
    except ValidationError:
        return
    dg.ScheduleDefinition("some", cron_schedule=taken, execution_timezone="UTC", job_name="any")


@pytest.mark.parametrize("owner", ["me@localhost", "me@team.engineering", "me"])
def test_an_owner_that_dagster_would_not_take_is_not_handed_on(written, owner):
    written(f"owners: [{owner}]")

    assert declared("owners") == ("team:platform",)


@pytest.mark.parametrize(
    ("type_", "called"),
    [
        ("postgres", "postgres"),
        ("redis_keys", "redis"),
        ("file", "file"),
        ("dänisch", "database"),
        ("x" * 70, "database"),
    ],
)
def test_what_a_system_is_called(written, type_, called):
    written(f"source: {{type: {type_}}}")

    assert kind("source") == called
