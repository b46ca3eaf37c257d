"""`agui-migrate` as people and scripts use it: what it prints, what it writes, and how it exits."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import dagster as dg
import psutil
import psycopg
import pytest
import redis
import yaml

from agui_pipelines import spec
from agui_pipelines.cli.home import open_instance
from agui_pipelines.embedded import EmbeddedRedis
from agui_pipelines.embedded.workload import fill
from agui_pipelines.phases.session import Session
from tests.partitions import LOADED_RANGES

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "c4n4ry-5f3e9b21"
STATES = 400
LARGE = 6_000
NUMBERS = ["total_states", "migrated_states", "normalised_states"]
LISTS = ["missing_states", "corrupted_states", "extra_states", "errors"]


@pytest.fixture(scope="session")
def guarded_redis():
    """URL of a Redis that wants `PASSWORD`, with a legacy workload in it."""
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as client:
            fill(client, STATES, text_bytes=200)
            client.config_set("requirepass", PASSWORD)
        yield server.url


@pytest.fixture(scope="session")
def completed(agui_migrate, guarded_redis, postgres_server, tmp_path_factory):
    """A whole run in a process of its own, begun from another folder, with a password for either end."""
    name = f"agui_test_cli_{os.getpid()}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        folder, elsewhere = tmp_path_factory.mktemp("completed"), tmp_path_factory.mktemp("elsewhere")
        text = {
            "name": "sessions-to-postgres",
            "source": {"type": "redis_keys", "connection_url": "${SOURCE_REDIS_URL}", "match": "session:*"},
            "target": {"type": "postgresql", "connection_url": "${TARGET_DATABASE_URL}"},
            "transforms": [{"strip_prefix": {"prefix": "session:"}}],
            "accept_losses": ["expiry", "duplicate_keys"],
        }
        file = folder / "sessions.yaml"
        file.write_text(yaml.safe_dump(text))
        target = re.sub(r"/[^/]*$", f"/{name}", postgres_server)
        environment = {
            "SOURCE_REDIS_URL": guarded_redis.replace("redis://", f"redis://:{PASSWORD}@"),
            "TARGET_DATABASE_URL": re.sub(r"//([^:@/]*)(:[^@]*)?@", rf"//\1:{PASSWORD}@", target),
        }
        said = agui_migrate("run", file, "--json", cwd=elsewhere, **environment)
        yield said, file, elsewhere, environment
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_run_prints_one_json_object_and_nothing_else(completed):
    said, *_ = completed

    assert said.code == 0, said.err
    result = said.json
    assert [result[key] for key in NUMBERS] == [STATES, STATES, result["normalised_states"]]
    assert result["normalised_states"] > 0
    assert [result[key] for key in LISTS] == [[], [], [], []]
    assert [result[f"{key}_count"] for key in LISTS] == [0, 0, 0, 0]
    assert result["passed"] is True
    assert result["losses"]["expiry"] == STATES // 40
    assert result["migration"] == "sessions-to-postgres"


def test_progress_is_told_in_plain_lines_where_there_is_no_terminal(completed):
    said, *_ = completed

    for phase in ("Plan", "Export", "Check export", "Transform", "Check staged", "Import", "Validate", "Check loaded"):
        assert re.search(
            rf"^{phase}: {STATES}( of {STATES})? in [0-9.]+ s, [0-9,]+/s$", said.err, flags=re.MULTILINE
        ), phase
    assert "\x1b" not in said.err + said.out
    assert len(said.err.splitlines()) < 20


def test_everything_lies_beside_the_migration_file_wherever_it_is_started(completed):
    _, file, elsewhere, _ = completed

    assert sorted(path.name for path in file.parent.iterdir()) == [".agui", "sessions.yaml"]
    assert list(elsewhere.iterdir()) == []


def test_the_run_is_seen_in_the_ui(completed, dagster_home):
    said, *_ = completed

    with open_instance(dagster_home) as instance:
        run = instance.get_run_by_id(said.json["run_id"])

    assert run is not None
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert run.job_name == "migrate"
    assert run.tags["agui/migration"] == "sessions-to-postgres"


def test_passwords_are_printed_and_stored_nowhere(completed, dagster_home):
    said, file, _, environment = completed

    assert all(PASSWORD in url for url in environment.values())
    assert PASSWORD not in said.out + said.err
    files = [path for folder in (file.parent, dagster_home) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    assert any(path.suffix == ".parquet" for path in files)
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


def test_it_can_be_validated_again_and_names_what_has_gone(completed, command, monkeypatch):
    _, file, _, environment = completed
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    again = command("validate", file, "--json")

    assert again.code == 0, again.err
    assert [again.json[key] for key in NUMBERS[:2]] == [STATES, STATES]
    with psycopg.connect(environment["TARGET_DATABASE_URL"]) as connection:
        [(gone,)] = connection.execute(
            "DELETE FROM ag_states WHERE state_id LIKE '00000042%' RETURNING state_id"
        ).fetchall()
        connection.execute("""UPDATE ag_states SET data = '{"n":1}' WHERE state_id LIKE '00000007%'""")
        connection.execute("""INSERT INTO ag_states (state_id, data) VALUES ('somebody else''s', '{}')""")
    failed = command("validate", file, "--json")

    assert failed.code == 1
    assert (failed.json["missing_states"], failed.json["missing_states_count"]) == ([gone], 1)
    assert failed.json["corrupted_states_count"] == 1
    assert failed.json["extra_states"] == ["somebody else's"]
    assert failed.json["passed"] is False
    assert failed.json["failure"]["error"] == "ValidationFailedError"
    assert gone in failed.error
    status = command("status", file)
    assert "validation failed" in status.out


def test_status_tells_how_far_a_migration_is_without_connecting(completed, command):
    _, file, *_ = completed

    said = command("status", file, "--json")

    assert said.code == 0
    assert said.json["keys"] == STATES
    assert said.json["phases"]["export"] == {"ranges": 16, "records": STATES}
    assert said.json["phases"]["import"]["records"] == STATES
    assert "sessions-to-postgres" in command("status", file).out


def test_a_migration_that_never_ran_has_a_status_too(command, text, written):
    assert command("status", written(text), "--json").json["state"] == "not started"
    assert "Nothing has been planned" in command("status", written(text)).err


def test_a_result_for_people(command, text, written, documents):
    said = command("run", written(text))

    assert said.code == 0, said.err
    assert re.search(r"Migrated and proven equal +30", said.out)
    assert re.search(r"Report +\S+-validation\.json", said.out)
    assert "agui-migrate ui" in said.out
    assert documents() == {f"{i:02}": {"number": i} for i in range(30)}


@pytest.mark.parametrize("states", [0, 5])
def test_a_source_of_few_states_is_moved(command, legacy, text, written, documents, states):
    legacy.delete(*[f"session:{i:02}" for i in range(states, 30)])

    said = command("run", written(text), "--json")

    assert said.code == 0, said.err
    assert [said.json[key] for key in NUMBERS] == [states, states, 0]
    assert documents() == {f"{i:02}": {"number": i} for i in range(states)}


def test_a_dry_run_writes_nothing_to_the_target(command, text, written, documents, tmp_path):
    file, workspace = written(text), tmp_path / "other"

    said = command("run", file, "--dry-run", "--json", "--workspace", workspace, "--batch-size", 7)

    assert said.code == 0, said.err
    assert said.json["dry_run"] is True
    assert said.json["insert"]["state"] == 30
    assert documents() is None
    assert (workspace / "moved" / "ledger").is_dir()
    assert not (tmp_path / ".agui").exists()
    assert "Nothing has been planned" in command("status", file).err
    written({**text, "workspace": "other"})
    assert "previewed; nothing was written" in command("status", file).out


def test_a_dry_run_into_a_store_that_does_not_exist_yet(command, text, written, tmp_path):
    to_files = {**text, "target": {"type": "file", "file_options": {"base_dir": "store"}}}

    said = command("run", written(to_files), "--dry-run")

    assert said.code == 0, said.err
    assert re.search(r"insert states +30", said.out)
    assert not (tmp_path / "store").exists()


def test_the_file_of_the_environment_and_then_migration_yaml_are_the_default(command, text, written, monkeypatch):
    file = written(text)
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()

    monkeypatch.chdir(elsewhere)
    assert "migration.yaml does not exist" in command("status").error
    monkeypatch.setenv(spec.FILE_VARIABLE, str(file))
    assert command("status", "--json").json["migration"] == "moved"
    monkeypatch.delenv(spec.FILE_VARIABLE)
    monkeypatch.chdir(file.parent)
    assert command("status", "--json").json["migration"] == "moved"


@pytest.fixture
def installed(tmp_path):
    """What the wheel would put into site-packages, away from the checkout."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
    settings = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    site = tmp_path / "site-packages"
    for package in settings["packages"]:
        shutil.copytree(CHECKOUT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, place in settings.get("force-include", {}).items():
        shutil.copyfile(CHECKOUT / source, site / place)
    return site


def test_an_installed_wheel_makes_its_dagster_home_in_the_workspace(installed, tmp_path):
    code = "import sys; from agui_pipelines.cli.home import dagster_home; print(dagster_home(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "workspace"],
        check=False,
        env={**environment, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == str(tmp_path / "workspace" / "dagster")
    config = yaml.safe_load((tmp_path / "workspace" / "dagster" / "dagster.yaml").read_text())
    assert config["telemetry"] == {"enabled": False}


def test_whoever_reads_only_the_beginning_is_no_defect_of_ours():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        said = subprocess.run(
            [sys.executable, "-c", "from agui_pipelines.cli.app import main; main()", "--help"],
            check=False,
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert (said.returncode, said.stderr.strip()) == (141, "")


# Refusals


def test_a_refused_run_exits_3_and_names_what_was_rejected(command, legacy, text, written, documents):
    legacy.set("session:bad", rb'{"a":"\u0000"}')
    legacy.set(b"session:\xff", b"{}")

    said = command("run", written(text), "--json")

    assert said.code == 3
    assert "2 records were rejected" in said.error
    assert "limits.max_rejects" in said.error
    assert said.json["failure"]["error"] == "RejectLimitError"
    assert {reject["id"] for reject in said.json["failure"]["rejects"]} == {"session:bad", r"session:\xff"}
    assert documents() is None


def test_ids_that_fall_together_exit_3_and_are_named(command, text, written, documents, tmp_path):
    (tmp_path / "shapes_two.py").write_text("def two(state_id, document):\n    return state_id[0], document\n")

    said = command("run", written({**text, "transforms": [*text["transforms"], {"python": "shapes_two:two"}]}))

    assert said.code == 3
    assert "Unexpected" not in said.error
    assert "'0' (from 'session:00', 'session:01'" in said.error
    assert documents() is None


def test_an_empty_id_is_rejected_like_any_other_reject(command, legacy, text, written, documents):
    legacy.set("", b"{}")
    everything = {**text, "source": {**text["source"], "match": "*"}, "transforms": [], "limits": {"max_rejects": 1}}

    said = command("run", written(everything), "--json")

    assert said.code == 0, said.err
    assert (said.json["migrated_states"], said.json["rejected_records"]) == (30, 1)
    assert len(documents()) == 30


@pytest.fixture
def expecting(text, written, tmp_path):
    """Writes a migration file with a suite of one's own for a stage."""

    def write(stage, *expectations):
        (tmp_path / "mine.json").write_text(json.dumps({"name": "mine", "expectations": expectations}))
        return written({**text, "expectations": {stage: "mine.json"}})

    return write


def no_more_than(size, severity="critical"):
    kwargs = {"column": "size", "max_value": size}
    return {"type": "expect_column_values_to_be_between", "kwargs": kwargs, "severity": severity}


@pytest.mark.parametrize(("stage", "prefix"), [("exported", "session:"), ("staged", "")])
def test_a_failed_expectation_exits_3_and_names_the_ids(command, expecting, documents, stage, prefix):
    said = command("run", expecting(stage, no_more_than(13)), "--json")

    assert said.code == 3
    assert f"The {stage} records do not meet the expectations" in said.error
    assert f"20 rows of the records, '{prefix}10', '{prefix}11'" in said.error
    failure = said.json["failure"]
    assert (failure["error"], failure["stage"]) == ("RefusedError", stage)
    assert len(failure["expectations"][0]["failing_ids"]) == 20
    assert documents() is None


def test_a_run_that_was_refused_goes_on_once_the_suite_is_mended(command, expecting, documents):
    assert command("run", expecting("staged", no_more_than(13))).code == 3

    said = command("run", expecting("staged", no_more_than(14)))

    assert said.code == 0, said.err
    assert "Resumed" in said.err
    assert len(documents()) == 30


def test_what_was_loaded_and_does_not_meet_a_suite_exits_1(command, expecting, documents):
    few = {**no_more_than(29), "kwargs": {"column": "found", "max_value": 29}, "meta": {"frame": "totals"}}

    said = command("run", expecting("loaded", few), "--json")

    assert said.code == 1
    assert "The loaded records do not meet the expectations" in said.error
    assert said.json["failure"]["error"] == "ValidationFailedError"
    assert said.json["passed"] is False
    [failed] = [suite for suite in said.json["expectations"] if not suite["passed"]]
    assert (failed["stage"], failed["suite"], failed["failures"][0]["failing_ids"]) == ("loaded", "mine", ["state"])
    assert said.json["failure"]["rollback"]["status"] == "rolled_back"
    assert documents() == {}


@pytest.mark.parametrize("stage", [pytest.param("exported", marks=pytest.mark.long), "staged"])
def test_a_warning_is_told_and_stops_nothing(command, expecting, documents, stage):
    file = expecting(stage, no_more_than(13, "warning"))

    previewed = command("run", file, "--dry-run")
    said = command("run", file)

    line = f"Warning: {stage} records, suite mine: expect_column_values_to_be_between(size): 20 rows of the records"
    assert (previewed.code, said.code) == (0, 0)
    assert line in previewed.out
    assert line in said.out
    assert len(documents()) == 30


def test_the_report_says_which_suites_were_met(command, expecting, tmp_path):
    said = command("run", expecting("staged", no_more_than(99)), "--json")

    found = [(suite["stage"], suite["suite"], suite["rows"], suite["failures"]) for suite in said.json["expectations"]]
    assert found == [
        ("exported", "exported", 30, []),
        ("staged", "staged", 30, []),
        ("staged", "mine", 30, []),
        ("loaded", "loaded", 30, []),
    ]
    [report] = (tmp_path / ".agui" / "moved" / "reports").iterdir()
    assert json.loads(report.read_text())["expectations"] == said.json["expectations"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "it is not JSON"),
        ('{"name": "a", "expectations": [{"type": "expect_nothing", "kwargs": {}}]}', "the type 'expect_nothing'"),
        (
            json.dumps(
                {"name": "a", "expectations": [{**no_more_than(1), "kwargs": {"column": "sizes", "max_value": 1}}]}
            ),
            "there is no column 'sizes'",
        ),
    ],
    ids=["absent", "no JSON", "unknown expectation", "unknown column"],
)
def test_a_suite_that_cannot_be_used_is_refused_before_anything_is_read(
    command, text, written, tmp_path, content, problem
):
    if content is not None:
        (tmp_path / "mine.json").write_text(content)
    unreachable = {"type": "redis_keys", "connection_url": "redis://127.0.0.1:1/0"}

    said = command("run", written({**text, "source": unreachable, "expectations": {"loaded": ["mine.json"]}}))

    assert said.code == 2
    assert "mine.json" in said.error
    assert problem in said.error


def test_a_shipped_suite_is_shown_edited_and_used_instead(command, text, written, tmp_path, documents):
    shown = command("expectations", "show", "staged")
    assert shown.code == 0
    suite = json.loads(shown.out)
    for expectation in suite["expectations"]:
        if expectation["kwargs"] == {"column": "size", "min_value": 2}:
            expectation["kwargs"] = {"column": "size", "min_value": 14}
    (tmp_path / "staged.json").write_text(json.dumps(suite))

    said = command("run", written({**text, "expectations": {"staged": "staged.json"}}))

    assert said.code == 3
    assert "10 rows of the records, '00', '01'" in said.error
    assert documents() is None
    assert command("expectations", "show", "nothing").code == 2


@pytest.mark.parametrize(
    ("source", "code"),
    [("import sys\ndef f(state_id, document):\n    sys.exit(0)\n", 3), ("import sys\nsys.exit(0)\n", 2)],
    ids=["the function", "the module"],
)
def test_a_users_code_that_exits_is_no_success(command, text, written, tmp_path, source, code):
    (tmp_path / "shapes_leaving.py").write_text(source)

    said = command("run", written({**text, "transforms": [{"python": "shapes_leaving:f"}]}))

    assert said.code == code
    assert "shapes_leaving:f" in said.error
    assert "SystemExit" in said.error


def test_whatever_a_users_function_says_is_printed_as_it_is(command, text, written, tmp_path):
    words = r"a\[/]b [/red] [bold] [link=x] \ end"
    source = f"def fail(state_id, document):\n    raise ValueError({words!r})\n"
    (tmp_path / "shapes_saying.py").write_text(source)

    said = command("run", written({**text, "transforms": [{"python": "shapes_saying:fail"}]}))

    assert said.code == 3
    assert f"raised ValueError: {words}" in said.error


def test_ids_of_any_length_go_to_a_store_that_can_hold_them_and_odd_names_there_are_told(
    command, legacy, text, written, redis_url
):
    long = "i" * 300
    legacy.set(f"session:{long}", b"{}")
    legacy.set("ag-ui:state:state:[/]\\[x]", b"no JSON")

    said = command("run", written({**text, "target": {"type": "redis", "connection_url": redis_url}}))

    assert said.code == 0, said.err
    assert legacy.get(f"ag-ui:state:state:{long}") == b"{}"
    assert re.search(r"1 unreadable records?: 'state \[/\]", said.out)


# Bad input


def but(text, path, value):
    """The migration with one key set, or removed if the value is None."""
    changed = json.loads(json.dumps(text))
    *parents, last = path.split(".")
    inner = changed
    for parent in parents:
        inner = inner[parent]
    if value is None:
        inner.pop(last)
    else:
        inner[last] = value
    return changed


WRONG = [
    ("source.type", "mongodb", 2, "unknown type 'mongodb'; known types: .*redis_keys"),
    ("source.type", None, 2, "source: the key 'type' is missing"),
    ("source.type", ["redis"], 2, "source"),
    ("target.type", "redis_keys", 2, "unknown type 'redis_keys'"),
    ("source", None, 2, "source: this key is required"),
    ("source", "redis", 2, "source"),
    ("name", None, 2, "name: this key is required"),
    ("name", "../up", 2, "name"),
    ("sorce", {}, 2, "unknown key 'sorce'; did you mean 'source'?"),
    ("source.conection_url", "x", 2, "unknown key 'conection_url'; did you mean 'connection_url'?"),
    ("source.redis_options", {"pasword": "x"}, 2, "unknown key 'pasword'; did you mean 'password'?"),
    ("source.ConnectionURL", "x", 2, "flat configuration dialect"),
    ("source.connection_url", "${AGUI_NO_SUCH_VARIABLE}", 2, "AGUI_NO_SUCH_VARIABLE, which is not set"),
    ("target.connect_timeout", "soon", 2, "'soon' is not a duration"),
    ("ranges", 1000, 2, "ranges"),
    ("batch_size", 0, 2, "batch_size"),
    ("transforms", "identity", 2, "transforms"),
    ("transforms", [{"strip_prefx": "x"}], 2, "no transform 'strip_prefx'"),
    ("transforms", [{"strip_prefix": {"prefix": 1}}], 2, "strip_prefix"),
    ("transforms", [{1: 2}], 2, "transform"),
    ("source.connection_url", "redis://127.0.0.1:1/0", 1, "Redis at 127.0.0.1:1 cannot be reached"),
    ("source.connection_url", "http://127.0.0.1:1/0", 2, "not a URL such as redis://"),
    ("target.connection_url", "postgresql://postgres@127.0.0.1:1/x", 1, "127.0.0.1:1"),
    ("target.connection_url", "127.0.0.1 5432", 2, "connection_url"),
    ("target.schema", "absent", 1, "absent"),
    ("workspace", "migration.yaml", 1, "workspace cannot be used"),
]


@pytest.mark.parametrize(("path", "value", "code", "sentence"), WRONG, ids=[f"{w[0]}={w[1]}" for w in WRONG])
def test_bad_input_is_told_in_a_sentence_and_nothing_is_written(
    command, text, written, documents, path, value, code, sentence
):
    changed = but(text, path, value) if value != [{1: 2}] else {**text, path: value}

    said = command("run", written(changed))

    assert (said.code, said.out) == (code, "")
    assert re.search(sentence, said.error), said.err
    assert "Unexpected" not in said.err
    assert documents() is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "migration.yaml does not exist"),
        (b"", "holds no mapping"),
        (b"- a\n- b\n", "holds no mapping"),
        (b'source: "redis://:c4n4ry-5f3e9b21@h\nname: x\n', "not valid YAML"),
        (b"source: {connection_url: redis://:c4n4ry-5f3e9b21@h", "not valid YAML"),
        (b"name: \xff\xfe\n", "cannot be read"),
        (b"name: a\x00b\n", "not valid YAML"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "validate", "status", "ui", "backup list"])
def test_an_unreadable_migration_file_is_told_in_a_sentence(command, tmp_path, verb, content, sentence):
    file = tmp_path / "migration.yaml"
    if content is not None:
        file.write_bytes(content)

    said = command(*verb.split(), file)

    assert (said.code, said.out) == (2, "")
    assert re.search(sentence, said.error)
    assert PASSWORD not in said.err


def test_a_file_name_that_is_not_text_is_told(agui_migrate):
    said = agui_migrate("run", "no-text-\udcff.yaml")

    assert said.code == 2
    assert "no-text-" in said.error
    assert "does not exist" in said.error


def test_a_folder_is_no_migration_file(command, tmp_path):
    said = command("run", tmp_path)

    assert said.code == 2
    assert "cannot be read: Is a directory" in said.error


@pytest.mark.parametrize("given", ["", ":wrong@"])
def test_a_wrong_password_is_told_and_not_shown(command, text, written, documents, guarded_redis, given):
    url = guarded_redis.replace("redis://", f"redis://{given}")

    said = command("run", written(but(text, "source.connection_url", url)))

    assert said.code == 1
    assert "does not let the user 'default' in" in said.error
    assert "wrong@" not in said.err
    assert documents() is None


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (r"/[^/]*$", "/no_such_database", "no_such_database"),
        (r"//[^@]*@", f"//no_such_role:{PASSWORD}@", "no_such_role"),
    ],
    ids=["database", "role"],
)
def test_a_wrong_database_or_role_is_told(command, text, written, postgres_url, old, new, sentence):
    url = re.sub(old, new, postgres_url)

    said = command("run", written(but(text, "target.connection_url", url)))

    assert said.code == 1
    assert sentence in said.error
    assert PASSWORD not in said.err


def test_a_wrong_port_that_answers_otherwise_is_told(command, text, written, postgres_url, redis_url):
    port = re.search(r":(\d+)/", postgres_url).group(1)

    said = command("run", written(but(text, "source.connection_url", f"redis://127.0.0.1:{port}/0")))

    assert said.code == 1
    assert f"127.0.0.1:{port}" in said.error


def test_source_and_target_that_are_one_place_exit_2(command, legacy, text, written, redis_url):
    overlapping = {
        **text,
        "source": {**text["source"], "match": "*"},
        "target": {"type": "redis", "connection_url": redis_url},
    }

    said = command("run", written(overlapping), "--json")

    assert said.code == 2
    assert "Source and target are the same place" in said.error
    assert said.json["failure"]["error"] == "SamePlaceError"
    assert legacy.dbsize() == 30


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--no-such-option"], "No such option"),
        (["no-such-command"], "No such command"),
        (["run", "--batch-size", "many"], "batch-size"),
        (["run", "--source", "redis"], "The migration has no target"),
        (["run", "--target", "postgres"], "The migration has no source"),
        (["run", "--source", "redis", "--target", "file", "--target-config", "/no/such"], "/no/such does not exist"),
        (["demo", "--states", "0"], "states"),
    ],
)
def test_a_wrong_command_line_exits_2(command, arguments, sentence):
    said = command(*arguments)

    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err


def test_a_file_and_flags_together_are_refused(command, text, written):
    said = command("run", written(text), "--source", "redis", "--target", "postgres")

    assert said.code == 2
    assert "not both" in said.error


def test_validating_what_never_ran_is_told(command, text, written):
    said = command("validate", written(text))

    assert said.code == 1
    assert "Nothing has been planned for 'moved' yet" in said.error


def test_a_wrong_configuration_is_a_json_object_too(command, text, written):
    said = command("run", written(but(text, "source.type", "mongodb")), "--json")

    assert said.code == 2
    assert said.json["failure"]["error"] == "SpecError"


@pytest.mark.parametrize("position", ["before", "after"])
def test_debug_shows_the_traceback(command, tmp_path, position):
    arguments = ["run", tmp_path / "absent.yaml"]

    said = command("--debug", *arguments) if position == "before" else command(*arguments, "--debug")

    assert said.code == 2
    assert "Traceback (most recent call last)" in said.err
    assert "agui_pipelines" in said.err
    assert "Traceback" not in command(*arguments).err


# The guide's flags


@pytest.fixture
def guides_files(text, legacy, postgres_url, redis_url, tmp_path):
    """Configuration files as a Go program writes them, and an AG-UI store on Redis to read from."""
    for number in range(5):
        legacy.set(f"app:state:state:{number}", json.dumps({"number": number}))
    source, target = tmp_path / "source.json", tmp_path / "target.yaml"
    source.write_text(
        json.dumps(
            {
                "type": "redis",
                "connection_url": redis_url,
                "max_connections": 10,
                "connect_timeout": 30_000_000_000,
                "read_timeout": 10_000_000_000,
                "redis_options": {
                    "pool_size": 10,
                    "db": int(redis_url.rpartition("/")[2]),
                    "key_prefix": "app:state:",
                    "enable_tls": False,
                },
            }
        )
    )
    target.write_text(
        yaml.safe_dump(
            {
                "type": "postgres",
                "connection_url": postgres_url,
                "schema": "public",
                "connect_timeout": "30s",
                "postgresql_options": {"ssl_mode": "prefer", "statement_timeout": "30s"},
            }
        )
    )
    return ["--source", "redis", "--source-config", source, "--target", "postgres", "--target-config", target]


def test_the_guides_flags_migrate(command, guides_files, documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    said = command("run", *guides_files, "--batch-size", 2, "--json")

    assert said.code == 0, said.err
    assert said.json["migrated_states"] == 5
    assert documents() == {str(number): {"number": number} for number in range(5)}
    assert (tmp_path / ".agui" / "redis-to-postgresql" / "ledger").is_dir()


def test_a_file_store_as_go_configures_it(command, text, redis_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "target.json"
    options = {"base_dir": str(tmp_path / "store"), "enable_sharding": True, "shard_count": 4, "file_mode": 0o640}
    target.write_text(json.dumps({"type": "file", "connect_timeout": 30_000_000_000, "file_options": options}))
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"connection_url": redis_url}))
    flags = ["--source", "redis_keys", "--source-config", source, "--match", "session:*"]

    said = command("run", *flags, "--target", "file", "--target-config", target, "--json")

    assert said.code == 0, said.err
    files = list((tmp_path / "store" / "states").glob("shard_*/*.json"))
    assert len(files) == 30
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o640}


def test_flags_are_written_as_a_migration_file_that_runs(command, guides_files, documents, tmp_path):
    file = tmp_path / "saved.yaml"

    said = command("run", *guides_files, "-o", file)

    assert said.code == 0, said.err
    assert str(file) in said.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert documents() is None
    assert command("run", file).code == 0
    assert len(documents()) == 5


def test_a_written_file_means_the_same_places_as_the_flags_did(command, text, redis_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "source.json").write_text(json.dumps({"connection_url": redis_url}))
    (tmp_path / "target.json").write_text(json.dumps({"type": "file", "file_options": {"base_dir": "store"}}))
    flags = ["--source", "redis_keys", "--source-config", "source.json", "--target", "file"]

    assert command("run", *flags, "--target-config", "target.json", "-o", "saved/migration.yaml").code == 0

    options = spec.load("saved/migration.yaml").target.file_options
    base_dir = (tmp_path / "saved" / options.base_dir).resolve()
    assert base_dir == tmp_path / "store"


def test_what_is_wrong_with_the_flags_is_told_before_a_file_is_written(command, tmp_path):
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"type": "redis", "conection_url": "x"}))
    file = tmp_path / "saved.yaml"

    said = command("run", "--source", "redis", "--source-config", source, "--target", "file", "-o", file)

    assert said.code == 2
    assert "conection_url" in said.error
    assert not file.exists()


def test_references_stay_references_in_a_written_file(command, tmp_path, monkeypatch):
    monkeypatch.setenv("AGUI_SAVED_URL", f"redis://:{PASSWORD}@h/0")
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"type": "redis", "connection_url": "${AGUI_SAVED_URL}"}))
    file = tmp_path / "saved.yaml"

    assert command("run", "--source", "redis", "--source-config", source, "--target", "file", "-o", file).code == 0

    assert yaml.safe_load(file.read_text())["source"]["connection_url"] == "${AGUI_SAVED_URL}"
    assert PASSWORD not in file.read_text()


def test_a_file_that_exists_is_not_overwritten(command, guides_files, tmp_path):
    file = tmp_path / "saved.yaml"
    file.write_text("mine")

    said = command("run", *guides_files, "-o", file)

    assert said.code == 2
    assert "exists already" in said.error
    assert file.read_text() == "mine"


def test_flags_that_contradict_a_configuration_are_refused(command, guides_files):
    contradicting = ["file" if argument == "redis" else argument for argument in guides_files]

    said = command("run", *contradicting)

    assert said.code == 2
    assert "--source says 'file'" in said.error


# Interruptions


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.long),  # see test_interrupted.py
        pytest.param(signal.SIGKILL, id="kill -9"),
    ],
)
def test_a_run_that_is_stopped_leaves_nothing_running_and_is_resumed(
    start, command, legacy, text, written, dagster_home, number
):
    file = written(text)
    legacy.mset({f"session:{i:06}": json.dumps({"number": i, "text": "x" * 500}) for i in range(LARGE)})
    ledger = file.parent / ".agui" / "moved" / "ledger"
    process = start("run", file)
    deadline = time.monotonic() + 120
    while not list(ledger.glob("*-export-*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "never got to the export"
        time.sleep(0.01)

    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, err
        assert "run the same command again to resume" in err
    assert "Traceback" not in err + out
    _, running = psutil.wait_procs(workers, timeout=10)
    assert running == []
    exported = {e.unit for e in Session.open(spec.load(file)).ledger.entries(phase="export")}
    assert exported
    resumed = command("run", file, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["migrated_states"] == LARGE + 30
    again = [e.unit for e in Session.open(spec.load(file)).ledger.entries(phase="export")]
    assert len(again) == len(set(again)) == LOADED_RANGES
    with open_instance(dagster_home) as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"agui/migration": "moved"}))
    assert runs
    assert {run.status for run in runs} <= {
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    }
