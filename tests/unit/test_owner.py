from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agui_pipelines import owner as owner_module
from agui_pipelines.owner import Owner, exists, locked


def test_an_owner_is_kept_as_json() -> None:
    owner = Owner.here("a-migration")
    assert Owner.parsed(owner.to_json()) == owner
    assert Owner.parsed(owner.to_json().decode()) == owner


@pytest.mark.parametrize("text", [None, b"", b"{}", b"[]", b"1", b"null", b"\xff", b'{"token": "t"}', "{"])
def test_what_is_no_owner_is_none(text: bytes | str | None) -> None:
    assert Owner.parsed(text) is None


def test_two_owners_of_one_process_differ_in_their_token() -> None:
    one, other = Owner.here("m"), Owner.here("m")
    assert one.token != other.token
    assert (one.process, one.started, one.machine) == (other.process, other.started, other.machine)


def test_this_process_lives() -> None:
    assert not Owner.here("m").is_gone()


def test_a_process_that_ended_is_gone_even_before_it_was_waited_for() -> None:
    code = "from agui_pipelines.owner import Owner; import sys; print(Owner.here('m').to_json().decode(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        owner = Owner.parsed(process.stdout.readline())
        assert owner is not None
        assert not owner.is_gone()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.is_gone()
    assert owner.is_gone()


def test_a_process_with_the_same_id_that_was_started_at_another_time_is_another_one() -> None:
    assert replace(Owner.here("m"), started="1").is_gone()


def test_of_another_machine_nothing_is_known() -> None:
    assert not replace(Owner.here("m"), machine="another", process=1, started="1").is_gone()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (121, "2 min"), (3600 * 26 + 61, "26 h 1 min"), (-90, "0 s")]
)
def test_an_age_is_told_in_words(seconds: int, text: str) -> None:
    since = datetime.now(UTC) - timedelta(seconds=seconds)
    assert replace(Owner.here("m"), since=since.isoformat()).age == text


def test_a_refusal_names_the_owner_and_when_its_lock_expires() -> None:
    owner = Owner.here("their-migration")
    error = locked("the place", owner, 17.2)
    assert error.message.startswith(f"The migration 'their-migration' (process {owner.process} on {owner.host}, since ")
    assert error.message.endswith("is writing to the place.")
    assert "expires in 17 s" in error.remedy
    assert error.data["owner"]["process"] == owner.process


def test_an_owner_that_this_process_left_is_gone():
    owner = Owner.here("a-migration")
    assert not owner.is_gone()

    owner.leave()

    assert owner.is_gone()
    assert not Owner.here("a-migration").is_gone()


def test_a_process_exists_if_it_lives_and_was_started_then() -> None:
    here = Owner.here("m")
    assert exists(here.process)
    assert exists(here.process, here.started)
    assert not exists(here.process, "1")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not exists(process.pid)


def test_a_process_of_which_the_system_tells_nothing_is_not_called_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Owner.here("m")
    hidden = replace(here, process=os.getppid(), started="5")
    monkeypatch.setattr(owner_module, "_PROC", tmp_path)  # as another user's process is not shown, with hidepid
    monkeypatch.setattr(owner_module, "_machine", lambda: here.machine)
    assert not hidden.is_gone()
