"""What the README shows can be typed as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from agui_pipelines import errors, spec
from agui_pipelines.cli.app import INTERRUPTED
from agui_pipelines.definitions import defs

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")


def shown():
    """Every `agui-migrate` command that the README shows, in blocks and within sentences."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [part.strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    inline = re.findall(r"`(agui-migrate [^`]*)`", README)
    return sorted({line.partition("#")[0].strip() for line in [*lines, *inline] if line.startswith("agui-migrate")})


def test_the_readme_shows_every_command():
    assert {shlex.split(line)[1] for line in shown()} >= {"demo", "plan", "run", "validate", "status", "rollback", "ui"}


@pytest.mark.parametrize("line", shown())
def test_a_command_in_the_readme_exists_with_its_options(command, line):
    _, verb, *arguments = shlex.split(line)
    group = [arguments.pop(0)] if verb in ("backup", "expectations", "schema") else []

    helped = command(verb, *group, "--help")

    assert helped.code == 0
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    known = set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", helped.out))
    assert set(options) <= known
    values = len([argument for argument in arguments if not argument.startswith("-")])
    assert values <= {"demo": 0, "control": 2}.get(verb, 1)


@pytest.mark.parametrize("option", sorted(set(re.findall(r"`(--[a-z-]+)`", README))))
def test_an_option_that_the_readme_names_exists(command, option):
    assert any(option in command(verb, "--help").out for verb in ("run", "sync", "cutover"))


def test_the_migration_file_in_the_readme_is_one(monkeypatch):
    [text] = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.setenv("SOURCE_REDIS_URL", "redis://source:6379/0")
    monkeypatch.setenv("TARGET_DATABASE_URL", "postgresql://target/states")

    migration = spec.parse(yaml.safe_load(text))

    assert migration.source.connection_url.get_secret_value() == "redis://source:6379/0"
    assert migration.target.type == "postgresql"
    assert len(migration.transforms) == 1


def test_the_defaults_in_the_readme_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \|[^|]*\| `?([^|`]+)`? \|$", README, flags=re.MULTILINE))
    migration = spec.parse({"name": "x", "source": {"type": "redis_keys"}, "target": {"type": "file"}})

    assert migration.source.match == rows["source.match"].strip()
    assert migration.workspace == rows["workspace"].strip()
    for key in ("batch_size", "ranges", "parallelism"):
        assert getattr(migration, key) == int(rows[key])
    assert migration.limits.max_rejects == int(rows["limits.max_rejects"])


def test_the_exit_codes_in_the_readme_are_those_of_the_errors():
    codes = {
        int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| ([^|]+) \|$", README, flags=re.MULTILINE)
    }
    used = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert codes.keys() == {0, *used, INTERRUPTED}


def table(heads):
    """The names in each row's first cell of the one table with these heads, and the cells after them."""
    [body] = re.findall(rf"^\| {re.escape(heads)} \|\n\|[-|:]+\|\n((?:\|.*\n)+)", README, flags=re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in body.splitlines()]
    return [(re.findall(r"`([^`]+)`", first), rest) for first, *rest in rows]


def names(rows):
    return {name for found, _ in rows for name in found}


def test_the_jobs_in_the_readme_are_those_of_the_ui():
    launched = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert names(table("job | does")) == launched


def test_the_schedules_and_sensors_in_the_readme_are_those_of_the_ui():
    automated = {each.name for each in (*(defs.schedules or ()), *(defs.sensors or ()))}
    assert names(table("schedule, sensor | does")) == automated


def test_the_checks_in_the_readme_are_those_of_the_ui():
    told = {
        (asset.strip("`"), name)
        for found, (asset, *_) in table("check | of | fails for, with the ids | stops")
        for name in found
    }
    keys = defs.resolve_asset_graph().asset_check_keys
    assert told == {(key.asset_key.to_user_string(), key.name) for key in keys}
