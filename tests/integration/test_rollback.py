"""What is taken back, and what is not: only the newest import, only once, and nothing that somebody relies on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

import pytest

from agui_pipelines.cli import output
from agui_pipelines.cli import rollback as command
from agui_pipelines.errors import BackupError, HookError, RefusedError, RollbackError, StagingError
from agui_pipelines.expectations.runner import Expectation, SuiteReport
from agui_pipelines.ledger import Entry, Ledger
from agui_pipelines.owner import Owner
from agui_pipelines.phases import backup
from agui_pipelines.phases import import_ as import_module
from agui_pipelines.phases import rollback as rollback_module
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.rollback import after_failure, chosen, rollback
from agui_pipelines.phases.standing import BEGUN, LOCK_LOST, RESTORE_BEGUN
from agui_pipelines.phases.steps import PHASE as CUTOVER
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.staging import SnapshotReader


@pytest.fixture
def store(opened, config):
    return opened(config("file", "target"))


@pytest.fixture
def move(migration, config, opened, store):
    """A migration of two states into files that hold another version of the first."""
    source = opened(first := config("redis", "source"))
    source.prepare()
    source.set_state("one", b'{"from":"source"}')
    source.set_state("two", b'{"from":"source"}')
    store.prepare()
    store.set_state("one", b'{"from":"before"}')
    return migration(source=first, target=config("file", "target"))


def run_of(move, run_id):
    """A run up to its import, as Dagster numbers it."""
    session, made = move.stage()
    session = replace(session, run_id=run_id)
    import_(session, made, [r.name for r in made.ranges])
    return session, made


def documents(store):
    return {id_: json.loads(store.get_state(id_))["from"] for id_ in store.list_states()}


MOVED = {"one": "source", "two": "source"}
BEFORE = {"one": "before"}


@pytest.fixture
def admitted(monkeypatch):
    """The snapshots of each look at whether they may be imported."""

    def require(session, snapshots):
        readers = list(snapshots)
        seen.append({reader.manifest.snapshot_id for reader in readers})
        original(session, readers)

    seen, original = [], import_module.require_importable
    monkeypatch.setattr(import_module, "require_importable", require)
    return seen


def test_a_run_looks_once_at_whether_its_records_may_be_imported(move, store, admitted):
    session, made = move.stage()
    ranges = [r.name for r in made.ranges]
    first = replace(session, run_id="first")

    import_module.back_up(first, made, ranges)
    import_(first, made, ranges)

    assert len(admitted) == 1
    assert documents(store) == MOVED


def test_what_a_run_has_staged_anew_is_looked_at_anew_and_so_is_all_in_another_run(move, admitted):
    session, made = move.stage()
    ranges = [r.name for r in made.ranges]
    first = replace(session, run_id="first")
    import_module.back_up(first, made, ranges)
    [before] = admitted
    for name in ranges:
        session.ledger.record(Entry("export", made.plan_id, name, outputs={"rejects": 1}))
    export(session, made, ranges)
    transform(session, made, ranges)

    import_(first, made, ranges)
    import_module.back_up(replace(session, run_id="second"), made, ranges)
    import_module.back_up(session, made, ranges)

    assert len(admitted) == 4
    assert admitted[1] != before
    assert admitted[1:] == [admitted[1]] * 3


def test_what_may_no_longer_be_lost_is_refused_within_the_run_too(move, admitted):
    session, made = move.stage()
    ranges = [r.name for r in made.ranges]
    import_module.back_up(replace(session, run_id="first"), made, ranges)

    strict = replace(move.but(accept_losses=[]).session(), run_id="first")
    import_module.back_up(strict, made, ranges)

    assert len(admitted) == 2


@pytest.mark.parametrize("phase", ["prune", "of_plan"])
def test_the_ledger_is_read_as_often_for_many_backups_as_for_one(move, monkeypatch, phase):
    session, made = run_of(move.but(backup={"keep": 100}), "first")

    def readings():
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "entries", lambda ledger, **of: seen.append(of) or original(ledger, **of))
            if phase == "prune":
                assert backup.prune(session, keep=0) == []
            else:
                assert backup.of_plan(session, made.plan_id)
        return len(seen)

    original = Ledger.entries
    one = readings()
    for _ in range(3):
        made_by_hand = backup.create(session)
        session.ledger.record(Entry(RESTORE_BEGUN, "", made_by_hand.backup_id))  # so that it may be needed

    assert readings() == one


def test_what_a_failed_run_imported_is_taken_back(move, store):
    run_of(move, "first")

    assert after_failure(move.session(), "first").status == "rolled_back"
    assert documents(store) == BEFORE


def test_a_failed_run_is_not_taken_back_once_another_one_has_imported(move, store):
    run_of(move, "first")
    session, made = run_of(move, "second")
    assert validate(session, made).passed

    assert after_failure(move.session(), "first").status == "kept"
    assert after_failure(move.session(), "second").status == "kept"
    assert documents(store) == MOVED


def test_after_the_lock_was_lost_nothing_is_taken_back_and_all_is_imported_again(move, store):
    session, made = run_of(move, "first")
    session.ledger.record(Entry(LOCK_LOST, made.plan_id))
    store.delete_state("two")  # somebody else wrote meanwhile

    session, made = run_of(move, "second")

    assert validate(session, made).passed
    session.ledger.record(Entry(BEGUN, made.plan_id, outputs={"run_id": "third", "ranges": ["00"]}))
    assert after_failure(move.session(), "third").status == "kept"
    assert documents(store) == MOVED


def test_a_rollback_repeated_does_not_take_back_the_migration_before(move, store):
    assert move.run().validation.passed
    before = documents(store)
    store.set_state("one", b'{"from":"users"}')
    assert move.run().validation.passed
    rollback(move.session())
    assert documents(store) == before | {"one": "users"}

    with pytest.raises(RefusedError, match="nothing to roll back"):
        rollback(move.session())

    assert documents(store) == before | {"one": "users"}


def test_a_rollback_does_not_mean_a_backup_that_was_made_by_hand_since(move, store):
    run_of(move, "first")
    backup.create(move.session())

    rollback(move.session())

    assert documents(store) == BEFORE


def test_after_a_whole_store_was_put_back_the_next_import_backs_up_anew(move, store):
    whole = backup.create(move.session())
    run_of(move, "first")
    backup.restore(move.session(), whole)
    store.set_state("two", b'{"from":"users"}')

    run_of(move, "second")

    assert documents(store) == MOVED
    assert after_failure(move.session(), "second").status == "rolled_back"
    assert documents(store) == BEFORE | {"two": "users"}


def test_a_backup_that_is_being_put_back_is_not_deleted(move, store):
    session, made = run_of(move, "first")
    assert validate(session, made).passed
    [first] = backup.outstanding(session)
    session.ledger.record(Entry(RESTORE_BEGUN, made.plan_id, first.backup_id))

    assert backup.prune(session, keep=0) == []
    with pytest.raises(RefusedError):
        backup.delete(session, first)


def test_records_that_refuse_expectations_are_not_imported_by_a_later_run(move, store):
    session, made = move.stage()
    failed = Expectation(
        number=1,
        type="expect_x",
        column="size",
        frame="records",
        severity="critical",
        passed=False,
        considered=2,
        unexpected=1,
        mostly=1,
        failing_ids=("one",),
        detail="",
    )
    reports = [asdict(SuiteReport("staged", "staged", 2, (failed,)))]
    session.ledger.record(Entry("expect_staged", made.plan_id, outputs={"passed": False, "reports": reports}))

    with pytest.raises(RefusedError, match="expect_x"):
        import_(session, plan(move.session()), ["00"])

    assert documents(store) == BEFORE


def test_a_backup_is_verified_once_before_the_target_is_taken(move, store, monkeypatch):
    run_of(move, "first")
    [made] = backup.outstanding(move.session())
    verified = []

    def verify(reader):
        lease = store.lock(Owner.here("another"), 5.0)  # refused while somebody holds it
        lease.release()
        verified.append(reader.manifest.snapshot_id)
        return original(reader)

    original = SnapshotReader.verify
    monkeypatch.setattr(SnapshotReader, "verify", verify)

    rollback(move.session())

    assert sorted(verified) == sorted(made.snapshots.values())
    assert documents(store) == BEFORE


def test_no_backup_is_put_back_unless_all_of_them_are_intact(move, store, monkeypatch):
    run_of(move, "first")
    session = move.session()
    [made] = backup.outstanding(session)
    damaged = replace(made, backup_id="backup-damaged", catalogue_checksum="0")
    monkeypatch.setattr(rollback_module.backups, "of_plan", lambda *_: [damaged, made])

    with pytest.raises(RollbackError, match="missing"):
        after_failure(session, "first")

    assert documents(store) == MOVED


def test_only_what_was_agreed_to_is_put_back(move, store):
    run_of(move, "first")
    agreed = chosen(move.session())
    rollback(move.session())
    run_of(move, "second")

    with pytest.raises(RefusedError, match="changed"):
        rollback(move.session(), agreed=agreed)

    assert documents(store) == MOVED


def test_the_command_puts_back_what_it_has_asked_for_and_nothing_else(move, store, monkeypatch):
    run_of(move, "first")

    def agree(question):
        assert chosen(move.session())[0].backup_id in question
        rollback(move.session())
        run_of(move, "second")

    monkeypatch.setattr(output, "agree", agree)

    with pytest.raises(RefusedError, match="changed"):
        command.rollback(move.session().migration, None, yes=False, while_live=False, json=False)

    assert documents(store) == MOVED


@pytest.mark.parametrize("live", [True, False])
def test_the_question_says_that_the_target_is_live_only_if_it_is(move, store, monkeypatch, live):
    run_of(move, "first")
    session = move.session()
    if live:
        session.ledger.record(Entry(CUTOVER, "plan", "cutover", outputs={"live": "target", "outcome": "done"}))
    asked = []
    monkeypatch.setattr(output, "agree", asked.append)

    command.rollback(session.migration, None, yes=False, while_live=True, json=False)

    assert ["The target is live" in question for question in asked] == [live]


def hooked(move, **codes):
    """The migration with hooks that run Python code."""
    return move.but(hooks={name: {"command": [sys.executable, "-c", code]} for name, code in codes.items()})


def test_a_restore_that_fails_after_the_stop_hook_says_that_applications_are_still_stopped(move, store, tmp_path):
    run_of(move, "first")
    [segment] = move.workspace.glob("snapshots/backup-*/state-*.parquet")
    damage = f"import pathlib; pathlib.Path({str(segment)!r}).unlink()"
    stopping = hooked(move, stop=damage, start=f"open({str(tmp_path / 'started')!r}, 'w')")

    with pytest.raises(StagingError) as failed:
        rollback(stopping.session())

    assert "still stopped" in failed.value.why
    assert "hooks.start" in failed.value.remedy
    assert not (tmp_path / "started").exists()


def test_a_restore_that_fails_without_a_stop_hook_says_nothing_of_applications(move, store, monkeypatch):
    run_of(move, "first")
    monkeypatch.setattr(backup, "put_back", refuse)

    with pytest.raises(BackupError) as failed:
        rollback(move.session())

    assert "stopped" not in str(failed.value)


def refuse(*_):
    raise BackupError("It could not be put back.")


def test_an_interrupted_restore_says_that_applications_are_still_stopped(move, store, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    run_of(move, "first")
    monkeypatch.setattr(backup, "put_back", interrupt)
    said = []
    session = replace(hooked(move, stop="pass").session(), listener=lambda progress: said.append(progress.note))

    with pytest.raises(KeyboardInterrupt):
        rollback(session)

    assert "still stopped" in " ".join(filter(None, said))


def test_a_start_hook_that_fails_says_that_the_target_is_right_and_the_applications_are_not_started(move, store):
    run_of(move, "first")

    with pytest.raises(HookError) as failed:
        rollback(hooked(move, stop="pass", start="raise SystemExit(3)").session())

    assert documents(store) == BEFORE
    assert "was put back" in failed.value.why
    assert "still stopped" in failed.value.why
    assert "run the same command again" not in failed.value.remedy


def test_a_stop_hook_that_fails_says_that_nothing_was_put_back(move, store):
    run_of(move, "first")

    with pytest.raises(HookError) as failed:
        rollback(hooked(move, stop="raise SystemExit(3)").session())

    assert documents(store) == MOVED
    assert "Nothing was put back" in failed.value.why


def test_what_goes_wrong_while_it_is_decided_is_not_called_a_failed_restore(move, store):
    session, made = run_of(move, "first")
    session.ledger.record(Entry("transform", made.plan_id, "00", outputs={}))  # no such entry is ever written

    with pytest.raises(KeyError):
        after_failure(move.session(), "first")


def test_a_restore_that_fails_by_itself_keeps_the_backup_and_says_so(move, store, monkeypatch):
    run_of(move, "first")
    monkeypatch.setattr(backup, "put_back", refuse)
    [made] = backup.outstanding(move.session())

    with pytest.raises(RollbackError) as failed:
        after_failure(move.session(), "first")

    assert failed.value.data["backups"] == [made.backup_id]
    assert made.backup_id in failed.value.why


def test_a_resumed_run_that_is_refused_says_that_an_earlier_one_has_written(move, store):
    run_of(move, "first")

    aftermath = after_failure(move.session(), "second")

    assert aftermath.status == "written_before"
    assert "agui-migrate rollback" in aftermath.sentence
    assert documents(store) == MOVED


def test_of_an_import_that_was_proven_or_taken_back_nothing_is_said(move, store):
    session, made = run_of(move, "first")
    rollback(move.session())
    assert after_failure(move.session(), "second").status == "nothing_written"
    session, made = run_of(move, "third")
    assert validate(session, made).passed
    assert after_failure(move.session(), "fourth").status == "nothing_written"


def test_an_import_without_a_backup_stays_written(move, store):
    run_of(move.but(backup={"before_import": False}), "first")

    aftermath = after_failure(move.session(), "second")

    assert aftermath.status == "written_before"
    assert "no backup" in aftermath.sentence


def test_a_migration_that_never_wrote_has_written_nothing(move, store):
    move.stage()

    assert after_failure(move.session(), "first").status == "nothing_written"
