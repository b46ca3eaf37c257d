"""A cutover in real stores: the whole way there and back, and what becomes of one that fails at each place."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from agui_pipelines.errors import CutoverError, RefusedError, StagingError, ValidationFailedError
from agui_pipelines.phases import cutover as cutovers
from agui_pipelines.phases import proof
from agui_pipelines.phases import sync as sync_
from agui_pipelines.phases import validate as validate_
from agui_pipelines.phases.control_record import ControlRecord
from agui_pipelines.phases.cutover import Asked, cutover, rehearse
from agui_pipelines.phases.proof import prove
from agui_pipelines.phases.rollback import rollback
from agui_pipelines.phases.steps import is_live, newest
from agui_pipelines.phases.sync import sync
from agui_pipelines.phases.validate import require_passed
from agui_pipelines.ports import Snapshot, Version

STATES = 30
OTHERS = [("file", "postgresql"), ("postgresql", "redis")]
LONG = pytest.mark.long
AT = "2025-07-14T09:30:10Z"
STOPPED = Asked(source_is_stopped=True)
BACK = Asked(back=True, source_is_stopped=True)


def document(number, **more):
    return json.dumps({"number": number, "exact": 1.10, **more}).encode()


def put(store, number, **more):
    data = document(number, **more)
    store.set_state(f"{number:03}", data)
    version = f"v{len(store.get_version_history(f'{number:03}'))}-{number}"
    store.save_version(Version(version, f"{number:03}", AT, data, None, None, ""))


def held(store):
    """Every record of a store, as values."""
    return {
        state_id: (
            json.loads(store.get_state(state_id)),
            {v.version_id: json.loads(v.data) for v in store.get_version_history(state_id)},
            {s.snapshot_id: json.loads(s.data) for s in store.list_snapshots(state_id)},
        )
        for state_id in store.list_states()
    }


def said(store):
    """Whether a store says that it is live."""
    record = store.live()
    return None if record is None else json.loads(record)["live"]


@pytest.fixture
def ends(migration, config, opened):
    """A migration that was run, between two stores of some kinds, and both of them."""

    def make(source, target, **more):
        there = config(source, "source")
        store = opened(there)
        store.prepare()
        for number in range(STATES):
            put(store, number)
        store.save_snapshot(Snapshot("s", "000", AT, document(0), "v0-0", None))
        move = migration(source=there, target=config(target, "target"), ranges=2, **more)
        assert move.run().validation.passed
        return move, store, opened(move.text["target"])

    return make


@pytest.fixture
def hooks(tmp_path):
    """Hooks that write down that they ran, and for which side; `failing` ones end with 1."""

    def make(*names, failing=()):
        def command(name):
            return ["sh", "-c", f"echo {name} $AGUI_SIDE >> hooks.log; exit {1 if name in failing else 0}"]

        return {name: command(name) for name in names}

    return make


@pytest.fixture
def ran(tmp_path):
    def lines():
        log = tmp_path / "hooks.log"
        return log.read_text().splitlines() if log.exists() else []

    return lines


ALL = ("stop", "start", "switch", "acceptance")


@pytest.fixture
def quick(monkeypatch):
    """Cutovers without Great Expectations and without a pause, which take longer than all the rest."""
    for module in (proof, validate_, sync_):
        for name in ("expect_exported", "expect_staged", "expect_loaded"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_: ())
    monkeypatch.setattr(cutovers, "PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("source", "target"),
    [("redis", "postgresql"), *(pytest.param(*ends, marks=LONG) for ends in OTHERS)],
)
def test_there_and_back_and_there_again_with_nothing_lost(request, ends, hooks, ran, source, target):
    if (source, target) not in OTHERS:  # the long ones are held to the expectations too
        request.getfixturevalue("quick")
    move, old, new = ends(source, target, hooks=hooks(*ALL))
    put(old, 1, changed=True)
    put(old, STATES)
    old.delete_state("002")

    report = cutover(move.session(), Asked())

    assert (report.outcome, report.live) == ("done", "target")
    assert (said(new), said(old)) == ("this", "other")
    assert ran() == ["stop source", "switch target", "acceptance target"]
    assert held(new) == held(old)
    with pytest.raises(RefusedError, match="live since its cutover"):
        cutover(move.session(), Asked())

    put(new, 3, new_side=True)
    put(new, STATES + 1)
    new.delete_state("004")
    with pytest.raises(RefusedError, match="live since its cutover"):
        rollback(move.session())
    assert json.loads(new.get_state("003"))["new_side"]
    back = cutover(move.session(), Asked(back=True))

    assert (back.outcome, back.live) == ("done", "source")
    assert (said(new), said(old)) == ("other", "this")
    assert ran()[3:] == ["stop target", "switch source", "acceptance source"]
    assert "004" not in set(old.list_states())
    assert json.loads(old.get_state("003"))["new_side"]
    assert held(old) == held(new)

    put(old, 3, old_side=True)  # which the way back had brought
    assert cutover(move.session(), Asked()).live == "target"
    assert held(new) == held(old)


# What fails ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        pytest.param("stop", ["stop source", "start source"], marks=LONG),
        pytest.param(
            "switch", ["stop source", "switch target", "stop target", "switch source", "start source"], marks=LONG
        ),
        (
            "acceptance",
            ["stop source", "switch target", "acceptance target", "stop target", "switch source", "start source"],
        ),
    ],
)
def test_a_hook_that_fails_is_undone_and_the_source_stays_live(ends, hooks, ran, quick, tmp_path, failing, expected):
    move, old, new = ends("file", "redis", hooks=failing_once(hooks(*ALL), failing, tmp_path))

    with pytest.raises(CutoverError, match=f"and was undone: The {failing} hook 'sh' ended with 1") as told:
        cutover(move.session(), Asked())

    assert "The source is live, as before." in told.value.why
    assert ran() == expected
    assert (said(old), said(new)) == (None, None)
    assert not is_live(move.session().ledger)
    report = json.loads(next(move.workspace.glob("reports/*-cutover.json")).read_text())
    assert (report["outcome"], report["live"]) == ("undone", "source")
    assert cutover(move.session(), Asked()).live == "target"  # it was mended meanwhile


def failing_once(hooks, name, folder):
    """The hooks, one of which ends with 1 when it is run for the first time."""
    kind, option, script = hooks[name]
    first = f"test -e {folder}/failed || {{ touch {folder}/failed; exit 1; }};"
    return {**hooks, name: [kind, option, script.replace("exit 0", f"{first} exit 0")]}


def test_what_was_written_to_the_new_side_before_it_failed_is_brought_back(ends, hooks, quick, monkeypatch):
    move, old, new = ends("redis", "postgresql", hooks=hooks(*ALL, failing=["acceptance"]))
    smoke = cutovers.smoke

    def written_to(session):
        put(new, 5, first=True)
        put(new, STATES + 7)
        new.delete_state("006")
        return smoke(session)

    monkeypatch.setattr(cutovers, "smoke", written_to)
    with pytest.raises(CutoverError, match="was undone") as told:
        cutover(move.session(), Asked())

    assert "records that had been written to the target since the switch were brought back" in told.value.why
    assert json.loads(old.get_state("005"))["first"]
    assert f"{STATES + 7:03}" in set(old.list_states())
    assert "006" not in set(old.list_states())
    assert (said(old), said(new)) == (None, None)
    assert sync(move.session()).conflicts.count == 0  # and the migration goes on from there
    assert held(old) == held(new)


SLIPS = ["between the two looks", "after the last sync", "after the proof"]


@pytest.mark.parametrize("when", [*(pytest.param(slip, marks=LONG) for slip in SLIPS), "after the switch"])
def test_a_write_to_a_source_that_was_said_to_be_stopped_is_noticed(ends, quick, monkeypatch, when):
    move, old, new = ends("file", "redis")
    name = {
        "between the two looks": "fingerprint_of_source",
        "after the last sync": "prove",
        "after the proof": "require_passed",
        "after the switch": "smoke",
    }[when]
    work, calls = getattr(cutovers, name), []

    def written(*arguments, **options):
        result = work(*arguments, **options) if when != "after the last sync" else None
        if not calls:
            put(old, 9, late=True)
        calls.append(name)
        return work(*arguments, **options) if result is None else result

    monkeypatch.setattr(cutovers, name, written)
    if when == "after the switch":
        monkeypatch.setattr(cutovers, "smoke", smoke := cutovers.smoke)
        say = cutovers._Cutover._say

        def said_and_written(self, side, record):
            say(self, side, record)
            written_once(old, calls)

        monkeypatch.setattr(cutovers, "smoke", smoke)
        monkeypatch.setattr(cutovers._Cutover, "_say", said_and_written)
    with pytest.raises(CutoverError, match="was undone"):
        cutover(move.session(), STOPPED)

    assert json.loads(old.get_state("009"))["late"]
    assert (said(old), said(new)) == (None, None)
    assert not is_live(move.session().ledger)


def written_once(store, calls):
    if not calls:
        put(store, 9, late=True)
    calls.append("say")


def test_a_window_that_a_hook_exceeds_is_undone(ends, hooks, ran, quick):
    slow = {**hooks("start"), "stop": {"command": "sleep 30"}}
    move, _old, _new = ends("file", "redis", hooks=slow)

    with pytest.raises(CutoverError, match=r"was undone: The cutover was to be through by .* \(--max-window 1 s\)"):
        cutover(move.session(), Asked(max_window=1.0))

    assert ran() == ["start source"]
    assert not is_live(move.session().ledger)


@LONG
@pytest.mark.parametrize("late", ["prove", "smoke"])
def test_a_window_that_is_over_in_the_middle_is_undone(ends, quick, monkeypatch, late):
    move, old, new = ends("file", "redis")
    now = datetime.now(UTC)
    hours = [0]
    work = getattr(cutovers, late)

    def slow(session):
        hours[0] = 1
        session.heartbeat() if late == "prove" else None
        return work(session)

    monkeypatch.setattr(cutovers, late, slow)
    with pytest.raises(CutoverError, match="--max-window 10 min"):
        cutover(
            move.session(),
            Asked(source_is_stopped=True, max_window=600.0),
            clock=lambda: now + timedelta(hours=hours[0]),
        )

    assert (said(old), said(new)) == (None, None)


# What is refused -------------------------------------------------------------------------------------------------------


def refused(move, asked=STOPPED, **options):
    with pytest.raises((RefusedError, StagingError)) as told:
        cutover(move.session(), asked, **options)
    assert not is_live(move.session().ledger)
    return str(told.value)


def test_what_does_not_hold_is_refused_before_anything_is_stopped(ends, hooks, ran, quick):
    move, old, new = ends("file", "redis", hooks=hooks("start", "switch", "acceptance"))

    assert "Nothing says how the applications are stopped" in refused(move, Asked())
    assert "nothing to return from" in refused(move, BACK)
    night = move.but(maintenance_window={"hours": "22:00-04:00"})
    assert "outside of the maintenance window" in refused(night, clock=lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))
    assert "has changed since the plan" in refused(move.but(transforms=["percent_encode"]))
    in_use = ControlRecord("other", "2026-11-23T12:00:00Z", "another", "plan-1")
    old.set_live(in_use.to_bytes())
    assert "by the migration 'another'" in refused(move)
    old.set_live(None)
    new.set_state("somebody else's", b"{}")
    assert not move.session().ledger.entries(phase="cutover_step") or ran() == []
    move.validate()
    assert "holds 1 records besides" in refused(move)
    new.delete_state("somebody else's")
    old.set_state("later", b"{}")
    move.stage()
    assert "has not been validated" in refused(move)
    assert ran() == []


@LONG
def test_a_validation_that_failed_since_is_refused(ends, quick):
    move, _, new = ends("file", "redis")
    new.delete_state("003")
    assert not move.validate().passed

    assert "last validated without success" in refused(move)


@LONG
def test_a_transform_without_an_inverse_needs_a_word_to_go_on(ends, quick):
    move, _old, _new = ends("file", "redis", transforms=[{"set_fields": {"moved": True}}])

    assert "'set_fields' has no inverse" in refused(move)

    report = cutover(move.session(), Asked(source_is_stopped=True, no_way_back=True))
    assert report.live == "target"
    assert "There is no way back" in report.notes[0]
    with pytest.raises(RefusedError, match="without a way back"):
        cutover(move.session(), BACK)


@LONG
def test_an_inverse_that_does_not_fit_the_records_is_refused(ends, quick):
    move, _, _ = ends(
        "file",
        "redis",
        transforms=[{"add_prefix": {"prefix": "a:"}}],
        reverse_transforms=[{"strip_prefix": {"prefix": "b:"}}],
    )

    assert "does not bring back what was there: '000'" in refused(move).replace("a:000", "000")


# Rehearsal -------------------------------------------------------------------------------------------------------------


def test_a_rehearsal_leaves_nothing_and_its_times_are_the_forecast(ends, hooks, ran, quick):
    move, old, new = ends("file", "redis", hooks=hooks(*ALL))
    put(old, STATES)

    report = rehearse(move.session(), Asked())

    assert (report.outcome, report.live) == ("rehearsed", "source")
    assert ran() == []
    assert (said(old), said(new)) == (None, None)
    assert held(new) == held(old)  # the sync was a real one
    ledger = move.session().ledger
    assert newest(ledger) is None
    assert not is_live(ledger)

    done = cutover(move.session(), Asked())
    assert {each.step: each.forecast for each in done.steps}["verify"] == {
        each.step: each.seconds for each in report.steps
    }["verify"]
    assert done.window_forecast is not None
    assert done.window_seconds is not None


@LONG
def test_a_rehearsal_says_that_the_source_is_in_use(ends, quick, monkeypatch):
    move, old, _ = ends("file", "redis")
    prove = cutovers.prove

    def in_use(session):
        put(old, 9, late=True)
        return prove(session)

    monkeypatch.setattr(cutovers, "prove", in_use)

    assert "as they are being written to" in " ".join(rehearse(move.session(), STOPPED).notes)


# What a proof looks at -------------------------------------------------------------------------------------------------


def test_what_the_migration_once_brought_and_the_source_has_no_more_fails_the_proof(ends, quick):
    move, old, new = ends("file", "redis")
    session = move.session()
    sync(session)
    gone = new.get_state("002")
    old.delete_state("002")
    assert sync(session).deleted == 1
    new.set_state("somebody else's", b"{}")
    others = prove(session)
    new.set_state("002", gone)

    found = prove(move.session())

    assert others.passed
    assert others.strays.count == 0
    assert found.strays.ids == ("002",)
    assert not found.passed
    assert found.kinds["state"].extra.count == 2
    with pytest.raises(ValidationFailedError, match="1 records that are gone from the source \\('002'\\)"):
        require_passed(found)
    assert found.to_dict()["strays"] == ["002"]


@LONG
def test_a_proof_imports_nothing_and_needs_no_import_of_its_own(ends, quick):
    move, old, new = ends("file", "redis")
    put(old, 3, changed=True)
    before = held(new)

    report = prove(move.session())

    assert not report.passed
    assert report.kinds["state"].corrupted.ids == ("003",)
    assert held(new) == before
    assert not move.session().ledger.entries(phase="import", plan_id=report.plan_id)


# A foreign source ------------------------------------------------------------------------------------------------------


@LONG
def test_a_foreign_redis_gets_back_what_was_written_to_files(move, legacy, config, opened, quick):
    legacy.mset({f"session:{i:02}": document(i) for i in range(STATES)})
    legacy.set("session:ttl", document(99), ex=3600)
    legacy.set("cart:1", "untouched")
    place = config("file", "target")
    move = move.but(target=place)
    assert move.run().validation.passed
    new = opened(place)

    report = cutover(move.session(), STOPPED)

    assert report.live == "target"
    assert "no place for a control record" in " ".join(report.notes)
    assert said(new) == "this"
    new.set_state("03", document(3, new_side=True))
    new.set_state("new", document(100))
    new.delete_state("04")
    back = cutover(move.session(), BACK)

    assert (back.outcome, back.live) == ("done", "source")
    assert json.loads(legacy.get("session:03"))["new_side"]
    assert json.loads(legacy.get("session:new"))["number"] == 100
    assert legacy.get("session:04") is None
    assert legacy.get("cart:1") == b"untouched"
    assert 3000 < legacy.ttl("session:ttl") <= 3600
    assert len(legacy.keys("session:*")) == STATES + 1
    assert said(new) == "other"


def test_a_new_side_that_lost_everything_takes_nothing_from_the_old_one(ends, quick, monkeypatch):
    move, old, new = ends("file", "redis")
    before = held(old)

    def flushed(_session):
        for state_id in list(new.list_states()):
            new.delete_state(state_id)
        raise RefusedError("It does not answer as it should.")

    monkeypatch.setattr(cutovers, "smoke", flushed)
    with pytest.raises(CutoverError, match="could not be undone"):
        # That deletes are accepted was said of the source.
        cutover(move.session(), Asked(source_is_stopped=True, accept_deletes=True))

    assert held(old) == before


def test_what_was_written_to_both_sides_before_it_was_undone_is_on_both_after_the_next_sync(ends, quick, monkeypatch):
    move, old, new = ends("file", "redis")

    def written_to_both(_session):
        put(old, 1, straggler=True)
        put(new, 2, new_side=True)
        raise RefusedError("It does not answer as it should.")

    monkeypatch.setattr(cutovers, "smoke", written_to_both)
    with pytest.raises(CutoverError, match="was undone"):
        cutover(move.session(), STOPPED)

    sync(move.session())
    assert held(old) == held(new)
    assert json.loads(new.get_state("001"))["straggler"]
    assert json.loads(old.get_state("002"))["new_side"]


def test_a_state_that_was_saved_again_as_it_was_does_not_stand_in_the_way(ends, quick):
    move, old, _ = ends("file", "postgresql")
    old.set_state("003", old.get_state("003"))  # which has another time of update now
    assert cutover(move.session(), STOPPED).outcome == "done"


def test_a_new_side_to_which_nobody_was_switched_does_not_keep_the_old_one_stopped(
    ends, hooks, ran, quick, monkeypatch
):
    move, old, new = ends("file", "redis", hooks=hooks(*ALL))
    effect = cutovers.Machine.effect

    def flushed(machine, name, work):
        if name == "switch/hook":
            for state_id in list(new.list_states()):
                new.delete_state(state_id)
            raise RefusedError("The new side is broken.")
        effect(machine, name, work)

    monkeypatch.setattr(cutovers.Machine, "effect", flushed)
    before = held(old)
    with pytest.raises(CutoverError, match="was undone") as told:
        cutover(move.session(), Asked())

    assert "nothing is brought back" in told.value.why
    assert ran()[-1] == "start source"
    assert held(old) == before
    assert (said(old), said(new)) == (None, None)
