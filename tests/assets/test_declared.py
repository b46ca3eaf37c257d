"""What the definitions take from a migration file, whatever it holds."""

from __future__ import annotations

import pytest

from agui_pipelines import spec
from assets.declared import declared, kind, schedules


@pytest.fixture
def written(tmp_path, monkeypatch):
    file = tmp_path / "migration.yaml"
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))
    return file.write_text


def test_without_a_file_all_is_as_it_is_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv(spec.FILE_VARIABLE, str(tmp_path / "nowhere.yaml"))

    assert (declared("owners"), declared("tags"), schedules()) == (("team:platform",), {}, spec.Schedules())
    assert (kind("source"), kind("target")) == ("database", "database")


def test_variables_are_resolved(written, monkeypatch):
    monkeypatch.setenv("SYNC_CRON", "0 2 * * 0")
    written("schedules: {sync: '${SYNC_CRON}', verify: '0 5 * * *'}")

    assert (schedules().sync, schedules().verify) == ("0 2 * * 0", "0 5 * * *")


@pytest.mark.parametrize(
    "text",
    [
        "schedules: {sync: '0 0 31 2 *'}",  # a day that never comes
        "schedules: {sync: '${NOT_SET_ANYWHERE}'}",
        "schedules: {max_lag: 90s}",
        "schedules: often",
    ],
)
def test_what_dagster_could_not_load_is_as_if_nothing_were_said(written, text):
    written(text)

    assert schedules() == spec.Schedules()


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
