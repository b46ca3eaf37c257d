"""A cutover that is killed: exactly one side is live, whenever that was, and the same command finishes or undoes it."""

from __future__ import annotations

import json
import signal

import pytest

from agui_pipelines.cli.status import describe
from agui_pipelines.errors import CutoverError, HookError, MigrationError
from agui_pipelines.phases.cutover import Asked, cutover
from agui_pipelines.phases.steps import is_live, newest
from tests.integration.forker import Forker
from tests.integration.test_cutover import (  # noqa: F401 - fixtures of the same stores
    ALL,
    STATES,
    ends,
    failing_once,
    held,
    hooks,
    put,
    quick,
    ran,
    said,
)


@pytest.fixture(scope="module")
def forker():
    forker = Forker()
    yield forker
    forker.close()


def killed(forker, move, point, what="cutover"):
    assert forker.end(forker.start(move, point, what)) == -signal.SIGKILL


def live(old, new):
    """The side that the stores say is live; of two that say so, the newer one."""
    records = {side: json.loads(text) for side, store in (("old", old), ("new", new)) if (text := store.live())}
    ours = {side: each["since"] for side, each in records.items() if each["live"] == "this"}
    return max(ours, key=lambda side: (ours[side], side == "new")) if ours else "old"


def step(name, number):
    return f"after ledger/*-cutover_step-{name}.json#{number}"


BEFORE_SWITCH = [
    "after ledger/*-cutover_opened-*",
    *(step(name, 1) for name in ("ready", "stop", "stop_hook", "final_sync", "verify")),
    *(step(name, 2) for name in ("ready", "stop_hook", "stop", "final_sync", "verify")),
    "after cursors/*",
    "after ledger/*-validate.json",
]
IN_SWITCH = [
    step("switch", 1),
    step("switch_before", 1),
    step("switch_new", 1),
    "live 1",
    step("switch_new", 2),
    step("switch_old", 1),
    "live 2",
    step("switch_old", 2),
    step("switch_hook", 1),
    step("switch_hook", 2),
    step("switch", 2),
    step("go_live", 1),
    "after ledger/*-smoke_begun-*",
    step("go_live_acceptance", 1),
    step("go_live_acceptance", 2),
    step("go_live", 2),
    "before ledger/*-cutover-cutover-*",
]
LONG = pytest.mark.long


def points(*some, default=""):
    """All of them, of which the default suite has one at most."""
    return [pytest.param(point, marks=[] if point == default else [LONG]) for point in some]


@pytest.mark.parametrize("point", points(*BEFORE_SWITCH, *IN_SWITCH, default="live 1"))
def test_a_killed_cutover_is_finished_by_the_next_one(ends, hooks, ran, quick, forker, point):  # noqa: F811
    move, old, new = ends("file", "redis", hooks=hooks(*ALL))
    put(old, 1, changed=True)

    killed(forker, move, point)

    assert live(old, new) == ("old" if point in (*BEFORE_SWITCH, *IN_SWITCH[:3]) else "new")
    state = describe(move.session().workspace, "story")
    assert "agui-migrate cutover finishes or undoes it" in state["cutover"]["state"]
    report = cutover(move.session(), Asked())

    assert (report.outcome, report.live) == ("done", "target")
    assert live(old, new) == "new"
    assert (said(new), said(old)) == ("this", "other")
    assert held(new) == held(old)
    once = {"stop_hook": "stop source", "switch_hook": "switch target", "go_live_acceptance": "acceptance target"}
    twice = next((line for name, line in once.items() if point == step(name, 1)), None)
    # What was stopped before the kill may have been started since, so that it is stopped again.
    assert all(ran().count(line) <= (2 if line in (twice, "stop source") else 1) for line in once.values())
    assert "start source" not in ran()


@pytest.mark.parametrize("point", points(step("stop_hook", 2), "live 1", step("switch_hook", 1), step("go_live", 1)))
def test_a_killed_cutover_is_undone_by_the_opposite_one(ends, hooks, ran, quick, forker, point):  # noqa: F811
    move, old, new = ends("file", "redis", hooks=hooks(*ALL))
    killed(forker, move, point)
    switched = point in (step("switch_hook", 1), step("go_live", 1))
    if switched:
        put(new, 3, new_side=True)  # applications may be there already

    report = cutover(move.session(), Asked(back=True))

    assert (report.outcome, report.live) == ("undone", "source")
    assert live(old, new) == "old"
    assert (said(old), said(new)) == (None, None)
    assert ran()[-1] == "start source"
    assert held(old) == held(new)
    assert ("new_side" in json.loads(old.get_state("003"))) is switched
    assert not is_live(move.session().ledger)


@pytest.mark.parametrize("point", points(step("verify", 2), "live 1", step("switch_hook", 2), step("go_live", 1)))
def test_a_source_that_was_written_to_after_a_kill_loses_nothing(ends, hooks, quick, forker, point):  # noqa: F811
    """Somebody has started the old system again."""
    move, old, new = ends("file", "redis", hooks=hooks(*ALL))
    killed(forker, move, point)
    put(old, STATES + 2, old_side=True)

    if point == step("verify", 2):
        assert cutover(move.session(), Asked()).live == "target"
        assert held(new) == held(old)
    else:
        with pytest.raises(CutoverError, match="has written to the source after it was stopped: '032'"):
            cutover(move.session(), Asked())
        assert live(old, new) == "old"
        assert not is_live(move.session().ledger)
    assert json.loads(old.get_state(f"{STATES + 2:03}"))["old_side"]


@pytest.mark.parametrize("point", points(step("stop", 2), step("switch_new", 1)))
def test_a_killed_cutover_whose_time_is_over_is_undone(ends, hooks, ran, quick, forker, point):  # noqa: F811
    move, old, new = ends("file", "redis", hooks=hooks(*ALL))
    killed(forker, move, point)

    report = cutover(move.session(), Asked(max_window=0.0))

    assert (report.outcome, report.live) == ("undone", "source")
    assert "its time is over" in report.reason
    assert ran()[-1] == "start source"
    assert (said(old), said(new)) == (None, None)


UNDOING = [
    "after ledger/*-cutover_undoing-*",
    step("undo_stop", 1),
    step("undo_stop", 2),
    "live 3",
    "live 4",
    step("undo_switch", 1),
    step("undo_switch", 2),
    step("switch", 3),
    step("undo_start", 1),
    step("undo_start", 2),
    step("stop", 3),
]


@pytest.mark.parametrize("point", points(*UNDOING))
def test_an_undo_that_is_killed_is_finished_by_the_next_cutover(ends, hooks, ran, quick, forker, point):  # noqa: F811
    move, old, new = ends("file", "redis", hooks=hooks(*ALL, failing=["acceptance"]))
    killed(forker, move, point)
    assert not newest(move.session().ledger).outcome

    report = cutover(move.session(), Asked())

    assert (report.outcome, report.live) == ("undone", "source")
    assert live(old, new) == "old"
    assert (said(old), said(new)) == (None, None)
    assert ran()[-1] == "start source"
    assert not is_live(move.session().ledger)


@pytest.mark.parametrize(
    "point", points(step("stop_hook", 2), step("verify", 2), "live 1", "live 2", step("go_live", 1))
)
def test_a_killed_return_is_finished_and_loses_nothing(ends, hooks, quick, forker, point):  # noqa: F811
    move, old, new = ends("redis", "file", hooks=hooks(*ALL))
    cutover(move.session(), Asked())
    put(new, 3, new_side=True)
    new.delete_state("004")
    killed(forker, move, point, "back")
    assert is_live(move.session().ledger)  # nobody may import there

    report = cutover(move.session(), Asked(back=True))

    assert (report.outcome, report.live) == ("done", "source")
    assert live(old, new) == "old"
    assert json.loads(old.get_state("003"))["new_side"]
    assert held(old) == held(new)


@LONG
def test_an_undo_that_a_hook_stops_is_told_and_goes_on(ends, hooks, ran, quick, tmp_path):  # noqa: F811
    some = failing_once(hooks(*ALL, failing=["switch"]), "start", tmp_path)
    move, old, new = ends("file", "redis", hooks=some)
    with pytest.raises(CutoverError, match="The step 'switch' of the cutover could not be undone") as told:
        cutover(move.session(), Asked())
    assert isinstance(told.value.__cause__, HookError)
    assert "being undone" in describe(move.session().workspace, "story")["cutover"]["state"]

    mended = move.but(hooks=failing_once(hooks(*ALL), "start", tmp_path))
    with pytest.raises(MigrationError, match="step 'stop' of the cutover could not be undone"):
        cutover(mended.session(), Asked())
    report = cutover(mended.session(), Asked())

    assert report.outcome == "undone"
    assert ran()[-1] == "start source"
    assert not is_live(move.session().ledger)
    assert (said(old), said(new)) == (None, None)
