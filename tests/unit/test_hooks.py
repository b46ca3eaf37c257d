"""What hooks are given, what becomes of them, and that what they say is kept and told, but never a secret of it."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time

import pytest

from agui_pipelines import spec
from agui_pipelines.errors import HookError, SpecError
from agui_pipelines.phases import hooks
from agui_pipelines.phases.hooks import run_hook
from agui_pipelines.phases.session import Session
from agui_pipelines.spec import Hook

SECRET = "hunter2-hunter2"
URL = f"postgresql://me:{SECRET}@host/db"


def opened(folder, **changes):
    text = {"name": "hooked", "source": {"type": "redis_keys"}, "target": {"type": "file"}, **changes}
    return Session.open(spec.parse(text, folder=folder))


@pytest.fixture
def session(tmp_path):
    return opened(tmp_path)


def python(code, *arguments):
    return Hook(command=[sys.executable, "-c", code, *map(str, arguments)], timeout="60s")


def kept(session):
    """The newest ledger entry of a hook."""
    return session.ledger.last("hook")


@pytest.fixture
def said(tmp_path, session):
    """What is told of a hook that prints something and fails."""

    def of(output):
        file = tmp_path / "output"
        file.write_text(output)
        code = "import sys; sys.stdout.write(open(sys.argv[1]).read()); sys.exit(1)"
        with pytest.raises(HookError) as failed:
            run_hook(session, "stop", python(code, file))
        return failed.value.message

    return of


@pytest.fixture
def said_tail(tmp_path, session):
    """The same without a process, as it is asked often."""

    def of(output):
        file = tmp_path / "output"
        file.write_text(output)
        with file.open("rb") as opened:
            return hooks._tail(session.migration, opened)

    return of


def test_the_end_of_the_output_is_told_in_whole_words(said):
    told = said(" ".join(f"word{number:04}" for number in range(500)))

    words = told.partition("It said: ")[2].split()
    assert words[-1] == "word0499"
    assert len(words) > 50
    assert all(len(word) == len("word0000") for word in words)


@pytest.mark.parametrize("separator", [" ", "\n"])
@pytest.mark.parametrize("read", [2_000, 64 * 1024])
def test_no_cut_uncovers_a_password(said_tail, read, separator):
    for after in range(read - 60, read + 60, 1 if read < hooks.KEPT else 7):
        told = said_tail(f"{'x' * 3000} cannot reach {URL}{separator * (after - 4)}over")

        assert "hunter2" not in told
        assert told.endswith("over")


def test_a_quoted_password_with_a_blank_is_struck_too(said):
    told = said("cannot connect: host=h password='one hunter2' dbname=d")

    assert "hunter2" not in told
    assert "dbname=d" in told


def test_of_one_endless_word_nothing_is_told(said):
    assert "hunter2" not in said(f"postgresql://me:{'hunter2' * 20_000}@host/db")


PRINT_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"


def test_a_hook_is_told_of_the_migration_and_of_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_URL", "redis://host:6379/0")
    monkeypatch.setenv("TARGET_PASSWORD", SECRET)
    monkeypatch.setenv("THE_SAME", SECRET)
    monkeypatch.setenv("PART", "part-of-a-url")
    monkeypatch.setenv("PREFIX", "sessions")
    monkeypatch.setenv("UNRELATED", "kept")
    monkeypatch.setenv("SAME_ADDRESS", "redis://host:6379/0")
    monkeypatch.setenv("HOLDS_IT", f"Bearer {SECRET}!")
    options = {"password": "${TARGET_PASSWORD}", "key_prefix": "${PREFIX}"}
    target = {"type": "redis", "connection_url": "redis://me:${PART}@host/0", "redis_options": options}
    session = opened(tmp_path, source={"type": "redis_keys", "connection_url": "${SOURCE_URL}"}, target=target)

    ran = run_hook(session, "switch", python(PRINT_ENVIRONMENT), phase="cutover")

    environment = json.loads(ran.output)
    assert {name: environment[name] for name in environment if name.startswith("AGUI_")} == {
        **{name: value for name, value in os.environ.items() if name.startswith("AGUI_")},
        "AGUI_HOOK": "switch",
        "AGUI_PHASE": "cutover",
        "AGUI_SIDE": "target",
        "AGUI_MIGRATION_NAME": "hooked",
        "AGUI_SOURCE_KIND": "redis_keys",
        "AGUI_TARGET_KIND": "redis",
    }
    assert not {"SOURCE_URL", "TARGET_PASSWORD", "THE_SAME", "PART", "HOLDS_IT"} & set(environment)
    assert environment["SAME_ADDRESS"] == "redis://host:6379/0"  # which is no secret
    assert (environment["PREFIX"], environment["UNRELATED"]) == ("sessions", "kept")
    assert environment["PATH"] == os.environ["PATH"]


def test_what_a_hook_found_out_by_itself_is_struck_where_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TARGET_PASSWORD", SECRET)
    target = {"type": "redis", "redis_options": {"password": "${TARGET_PASSWORD}"}}
    session = opened(tmp_path, target=target)

    ran = run_hook(session, "stop", python("import sys; print('one', f'<{sys.argv[1]}>')", SECRET))

    assert ran.output == "one <***>"
    assert SECRET not in json.dumps(kept(session).outputs)


def test_what_became_of_a_hook_is_kept(session):
    run_hook(session, "start", python("import sys; print('first'); print('second', file=sys.stderr, flush=True)"))

    entry = kept(session)
    assert entry.unit == "start"
    assert entry.outputs.pop("seconds") >= 0
    assert sorted(entry.outputs.pop("output").splitlines()) == ["first", "second"]
    about = {"phase": "rollback", "side": "target", "command": sys.executable}
    assert entry.outputs == about | {"exit_code": 0, "trouble": ""}


def test_of_much_output_the_end_is_kept(session):
    ran = run_hook(session, "start", python("for n in range(20000): print(f'line {n}')"))

    assert ran.output.splitlines()[-1] == "line 19999"
    assert 60_000 < len(ran.output) <= 64 * 1024


@pytest.mark.parametrize("code", [1, 77])
def test_the_exit_code_decides_and_is_kept(session, code):
    with pytest.raises(HookError, match=f"ended with {code}"):
        run_hook(session, "acceptance", python(f"raise SystemExit({code})"))
    assert kept(session).outputs["exit_code"] == code


def test_one_that_takes_too_long_ends_with_all_that_it_has_started(session):
    hook = Hook.model_validate({"command": "echo $$; sleep 1000 & sleep 1000", "shell": True, "timeout": "2s"})

    with pytest.raises(HookError, match=r"took longer than 2 seconds\. It said: \d+"):
        run_hook(session, "stop", hook)
    outputs = kept(session).outputs
    assert (outputs["exit_code"], outputs["trouble"]) == (None, "took longer than 2 seconds")
    for _ in range(600):  # whoever inherits what was killed need not have noticed yet
        try:
            os.killpg(int(outputs["output"]), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("Something that the hook has started goes on.")


def test_one_that_cannot_be_started_is_kept_too(session):
    with pytest.raises(HookError, match="cannot be started: No such file"):
        run_hook(session, "stop", Hook(command="/nowhere/at-all --now"))
    assert kept(session).outputs["trouble"].startswith("cannot be started")


def test_there_is_no_shell_unless_it_is_asked_for(session):
    line = f"{shlex.quote(sys.executable)} -c 'import sys; print(sys.argv[1:])' $AGUI_HOOK | cat"

    words = run_hook(session, "stop", Hook(command=line)).output
    shell = run_hook(session, "stop", Hook.model_validate({"command": line, "shell": True})).output

    assert words == "['$AGUI_HOOK', '|', 'cat']"
    assert shell == "['stop']"


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ("", "the command is empty"),
        ([], "the command is empty"),
        ({"command": " ", "shell": False}, "the command is empty"),
        ({"command": ["a", "b"], "shell": True}, "one line, not a list"),
        ("'unclosed", "cannot be split into words"),
        ({"command": "x", "time": "1s"}, "unknown key 'time'"),
    ],
)
def test_a_hook_that_says_nothing_sensible_is_refused(tmp_path, hook, problem):
    with pytest.raises(SpecError, match=problem):
        opened(tmp_path, hooks={"switch": hook})
