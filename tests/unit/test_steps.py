"""The machine of a cutover: every step recorded before and after, undone in the opposite order, taken up where it was left."""

from __future__ import annotations

import pytest

from agui_pipelines.errors import CutoverError, HookError, RefusedError
from agui_pipelines.ledger import Ledger
from agui_pipelines.phases.steps import (
    Machine,
    Step,
    is_live,
    last_done,
    live_side,
    newest,
    opened,
    require_source_live,
)
from agui_pipelines.staging import Workspace

NAMES = ("ready", "stop", "final_sync", "verify", "switch", "go_live")


class Killed(BaseException):
    """What a process feels of `kill -9` in a test: nothing of its own runs any more."""


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Workspace(str(tmp_path), "m"))


@pytest.fixture
def machine(ledger):
    return Machine(ledger, opened(ledger, "cutover-1", "plan-1", "forward", {}), lambda _: None)


def again(ledger):
    """The machine of another process."""
    return Machine(Ledger(ledger._files), newest(ledger), lambda _: None)


def steps(log, failing="", error=None, undo_failing=""):
    def do(name):
        log.append(name)
        if name == failing:
            raise error
        return {"detail": f"did {name}"}

    def undo(name):
        log.append(f"undo {name}")
        if name == undo_failing:
            raise HookError(f"{name} stays")
        return ""

    return [Step(name, lambda name=name: do(name), lambda name=name: undo(name)) for name in NAMES]


def test_all_steps_are_done_in_order_and_recorded(machine, ledger):
    log = []
    machine.carry_out(steps(log), steps(log))
    machine.end("done", "target", {})

    assert log == list(NAMES)
    recorded = [(e.unit, e.outputs["state"]) for e in ledger.entries(phase="cutover_step")]
    assert recorded == [(name, state) for name in NAMES for state in ("begun", "done")]
    assert live_side(ledger) == "target"
    assert last_done(ledger, "forward").facts["verify"]["detail"] == "did verify"
    assert last_done(ledger, "back") is None


@pytest.mark.parametrize("failing", NAMES[1:])
def test_a_step_that_fails_is_undone_with_all_before_it(machine, ledger, failing):
    log = []
    some = steps(log, failing, HookError("No.", remedy="Mend it."))
    with pytest.raises(CutoverError, match=f"failed at its step '{failing}' and was undone: No\\.") as told:
        machine.carry_out(some, some)

    begun = NAMES[: NAMES.index(failing) + 1]
    assert log == [*begun, *(f"undo {name}" for name in reversed(begun))]
    assert told.value.remedy == "Mend it."
    assert newest(ledger).outcome == "undone"
    assert not is_live(ledger)


def test_a_refusal_before_anything_was_stopped_is_told_as_it_is(machine, ledger):
    some = steps([], "ready", RefusedError("Not proven."))
    with pytest.raises(RefusedError, match=r"^Not proven"):
        machine.carry_out(some, some)

    assert newest(ledger).outcome == "undone"


def test_an_interruption_is_undone_too(machine, ledger):
    log = []
    some = steps(log, "verify", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        machine.carry_out(some, some)

    assert log[-4:] == ["undo verify", "undo final_sync", "undo stop", "undo ready"]
    assert newest(ledger).undoing == "It was interrupted."


def test_an_undo_that_fails_is_told_and_taken_up_where_it_stopped(machine, ledger):
    log = []
    some = steps(log, "go_live", HookError("No."), undo_failing="switch")
    with pytest.raises(CutoverError, match="step 'switch' of the cutover could not be undone: switch stays"):
        machine.carry_out(some, some)
    assert newest(ledger).is_open
    assert is_live(ledger)  # it may be: nobody may import there

    log.clear()
    again(ledger).undo(steps(log), None)

    assert log == [f"undo {name}" for name in ("switch", "verify", "final_sync", "stop", "ready")]
    assert newest(ledger).outcome == "undone"
    assert not is_live(ledger)


def test_an_effect_that_is_recorded_is_not_repeated_and_one_that_may_not_have_come_to_its_end_is(machine, ledger):
    log = []
    machine.effect("stop/hook", lambda: log.append("stop"))
    with pytest.raises(Killed):
        machine.effect("switch/new", lambda: (_ for _ in ()).throw(Killed))

    resumed = again(ledger)
    resumed.effect("stop/hook", lambda: log.append("stop"))
    resumed.effect("switch/new", lambda: log.append("switch"))

    assert log == ["stop", "switch"]


def test_what_was_there_before_is_known_after_it_was_changed(machine, ledger):
    machine.known("switch/before", lambda: {"target": None})

    assert again(ledger).known("switch/before", lambda: {"target": "changed"}) == {"target": None}


@pytest.mark.parametrize(("step", "live"), [("verify", False), ("switch", True), ("go_live", True)])
def test_a_target_may_be_live_from_the_first_moment_of_the_switch(machine, ledger, step, live):
    for name in NAMES[: NAMES.index(step) + 1]:
        machine.record(name, "begun")

    assert is_live(ledger) is live
    if live:
        with pytest.raises(RefusedError, match="live since its cutover"):
            require_source_live(ledger)


def test_a_return_that_is_under_way_leaves_the_target_live(machine, ledger):
    machine.carry_out(steps([]), [])
    machine.end("done", "target", {})
    back = Machine(ledger, opened(ledger, "cutover-2", "plan-1", "back", {}), lambda _: None)
    assert is_live(ledger)

    back.carry_out(steps([]), [])
    back.end("done", "source", {})

    assert not is_live(ledger)
    assert last_done(ledger, "back").cutover_id == "cutover-2"
