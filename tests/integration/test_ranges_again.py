"""Key ranges that are moved again by themselves, beside syncs, validations, backups and rollbacks of the same migration."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agui_pipelines.errors import RefusedError
from agui_pipelines.phases import backup as backup_module
from agui_pipelines.phases import import_ as import_module
from agui_pipelines.phases import sync as sync_module
from agui_pipelines.phases import validate as validate_module
from agui_pipelines.phases.backup import backups
from agui_pipelines.phases.cursor import current_cursor
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import back_up, import_, pending_ranges
from agui_pipelines.phases.plan import current
from agui_pipelines.phases.rollback import after_failure, rollback
from agui_pipelines.phases.spot_check import spot_check
from agui_pipelines.phases.standing import is_half_written, standing
from agui_pipelines.phases.sync import sync
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate
from agui_pipelines.ports import Version
from tests.integration.test_sync import held, remove

pytestmark = pytest.mark.usefixtures("without_suites")

TIME = "2025-07-14T09:30:15Z"


def document(number):
    return json.dumps({"n": number}).encode()


@pytest.fixture
def ends(config, opened):
    from_, to = config("redis", "source"), config("file", "target")
    source, target = opened(from_), opened(to)
    for number in range(12):
        source.set_state(f"s{number:02}", document(number))
    return from_, to, source, target


@pytest.fixture
def source(ends):
    return ends[2]


@pytest.fixture
def target(ends):
    return ends[3]


@pytest.fixture
def move(migration, ends):
    """One range is worked on after the other, so that those before one that fails are finished."""
    return migration(source=ends[0], target=ends[1], parallelism=1, sync={"max_delete_fraction": 0.9})


def range_of(plan, key):
    [name] = [r.name for r in plan.ranges if (r.lower is None or r.lower <= key) and (r.upper is None or key < r.upper)]
    return name


def staged_again(move, key, run_id=""):
    session = replace(move.session(), run_id=run_id)
    plan = current(session)
    name = range_of(plan, key)
    export(session, plan, [name])
    transform(session, plan, [name])
    return session, plan, name


def moved_again(move, key):
    session, plan, name = staged_again(move, key)
    import_(session, plan, [name])
    return validate(session, plan)


@pytest.fixture
def breaking(monkeypatch):
    """Has an import fail once it has written the first segment of a key range, of any if it is not named."""

    def breaking(session, plan, names, of=None):
        def broken(session, plan, snapshot, *rest, **more):
            written = original(session, plan, snapshot, *rest, **more)
            if of in (None, snapshot.manifest.range):
                raise ZeroDivisionError
            return written

        original = import_module._import_segment
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(import_module, "_import_segment", broken)
            import_(session, plan, names)

    return breaking


@pytest.fixture
def killed_sync(monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    def killed_sync(session):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sync_module, "_require_as_written", killed)
            sync(session)

    return killed_sync


# Beside syncs


def test_a_state_that_is_gone_when_its_range_is_repaired_goes_with_the_next_sync(move, source, target):
    move.run()
    sync(move.session())
    source.delete_state("s05")
    assert moved_again(move, b"s05").passed

    assert sync(move.session()).deleted == 1

    assert held(target) == held(source)


def test_a_version_that_is_gone_when_its_range_is_repaired_goes_with_the_next_sync(move, source, target):
    for number in range(2):
        source.save_version(Version(f"v{number}", "s05", TIME, document(number)))
    move.run()
    sync(move.session())
    remove(source, "version", "s05", "v1")
    assert moved_again(move, b"s05").passed

    assert sync(move.session()).deleted == 1

    assert held(target) == held(source)
    assert sync(move.session()).changes == 0


def test_a_state_that_came_with_a_repair_is_known_to_later_syncs_by_what_it_was_last(migration, config, opened, ends):
    from_, target = config("postgresql", "rows"), ends[3]
    source = opened(from_)
    source.prepare()
    source.set_state("s05", document(5))
    move = migration(source=from_, target=ends[1])
    move.run()
    sync(move.session())
    for number in (1, 2):
        source.set_state("s05x", document(number))
        assert moved_again(move, b"s05x").passed
        sync(move.session())
    assert spot_check(move.session(), 100).passed
    source.set_state("s05x", document(3))

    assert sync(move.session()).updated == 1

    assert held(target) == held(source)


def test_what_was_staged_again_and_not_imported_is_not_taken_for_what_the_target_holds(move, source, target):
    move.run()
    source.set_state("s00", document(1000))
    source.set_state("s11", document(1011))
    session, plan, name = staged_again(move, b"s00")

    with pytest.raises(RefusedError, match=f"The key ranges {name} of .* were exported again") as refused:
        sync(move.session())

    assert f"--range={name}" in refused.value.remedy
    import_(session, plan, [name])
    assert validate(session, plan).passed
    sync(move.session())
    assert held(target) == held(source)


def test_no_range_is_imported_by_itself_until_a_killed_sync_was_finished(move, source, target, killed_sync):
    move.run()
    sync(move.session())
    source.set_state("new", document(1))
    killed_sync(move.session())
    session, plan, name = staged_again(move, b"s01")

    with pytest.raises(RefusedError, match="A sync was ended while it wrote"):
        import_(session, plan, [name])

    assert is_half_written(session.ledger)
    source.delete_state("new")
    sync(move.session())
    assert held(target) == held(source)


def test_a_state_that_came_from_another_key_is_not_removed_with_the_old_one(migration, ends, source, target):
    by_number = {"rename_ids": {"pattern": ".:(?P<n>.)", "template": "{n}"}}
    for number in range(12):
        source.delete_state(f"s{number:02}")
    for number in range(4):
        source.set_state(f"a:{number}", document(number))
    move = migration(source=ends[0], target=ends[1], transforms=[by_number], sync={"max_delete_fraction": 0.9})
    move.run()
    sync(move.session())
    source.delete_state("a:1")
    source.set_state("b:1", document(1))
    move.run(fresh=True)

    sync(move.session())

    assert set(held(target)) == {"0", "1", "2", "3"}


def test_an_import_still_counts_once_a_sync_after_it_was_taken_back(move, source, target):
    move.run()
    source.set_state("s00", document(1000))
    sync(move.session())

    rollback(move.session())

    session = move.session()
    plan = current(session)
    assert pending_ranges(session, plan) == []
    assert validate(session, plan).passed
    assert sync(move.session()).updated == 1
    assert held(target) == held(source)


def test_a_sync_is_not_taken_back_after_the_import_before_it(move, source, target):
    move.run()
    oldest = next(each for each in backups(move.session()) if each.of == "target")
    source.set_state("s00", document(1000))
    sync(move.session())
    rollback(move.session(), oldest.backup_id)
    assert not held(target)

    with pytest.raises(RefusedError, match="nothing to roll back"):
        rollback(move.session())

    assert not held(target)


# Beside a validation


def test_a_validation_during_which_a_range_is_imported_again_proves_nothing(
    move, source, target, monkeypatch, breaking
):
    def meanwhile(session, comparison):
        breaking(*staged_again(move, b"s00", "R")[:2], [range_of(current(session), b"s00")])
        return original(session, comparison)

    move.run()
    source.set_state("s00", document(1000))
    original = validate_module.look_again
    session = move.session()
    plan = current(session)
    with monkeypatch.context() as patch, pytest.raises(RefusedError, match="was written to while it was compared"):
        patch.setattr(validate_module, "look_again", meanwhile)
        validate(session, plan)

    assert plan.plan_id not in standing(session.ledger).proven
    assert pending_ranges(session, plan) == [range_of(plan, b"s00")]


def test_an_import_that_begins_as_a_validation_is_recorded_takes_its_proof(move, monkeypatch, breaking):
    def meanwhile(session):
        breaking(session, current(session), [range_of(current(session), b"s00")])

    move.run()
    session = move.session()
    plan = current(session)
    recorded = validate_module._record

    def record(*given):
        meanwhile(move.session())
        recorded(*given)

    monkeypatch.setattr(validate_module, "_record", record)
    assert validate(session, plan).passed

    assert plan.plan_id not in standing(session.ledger).proven


# Beside each other


def test_a_failed_range_is_taken_back_although_another_one_was_imported_since(move, target, breaking):
    session, plan = move.stage()
    first, second = (r.name for r in plan.ranges[:2])
    breaking(replace(session, run_id="A"), plan, [first])
    import_(replace(move.session(), run_id="B"), plan, [second])

    aftermath = after_failure(move.session(), "A")

    assert (aftermath.status, set(held(target))) == ("rolled_back", set(imported_ids(move, plan, second)))
    assert second not in pending_ranges(move.session(), plan)


def test_of_a_run_that_fails_only_what_was_not_imported_before_is_taken_back(move, target, breaking):
    session, plan = move.stage()
    first, second, third = (r.name for r in plan.ranges[:3])
    import_(replace(session, run_id="A"), plan, [first])
    breaking(replace(move.session(), run_id="B"), plan, [first, second, third], of=second)

    aftermath = after_failure(move.session(), "B")

    assert aftermath.status == "rolled_back"
    assert f"Imported before, and left: {first}" in aftermath.sentence
    assert set(held(target)) == set(imported_ids(move, plan, first))


def test_a_range_that_was_begun_again_since_is_kept_and_that_is_alarming(move, breaking):
    session, plan = move.stage()
    name = plan.ranges[0].name
    breaking(replace(session, run_id="A"), plan, [name])
    breaking(replace(move.session(), run_id="B"), plan, [name])

    aftermath = after_failure(move.session(), "A")

    assert (aftermath.status, aftermath.is_half) == ("kept", True)
    assert "another run has imported since" in aftermath.sentence


def test_what_was_imported_before_is_not_taken_back_by_the_backup_that_it_shares(move, target, breaking):
    session, plan = move.stage()
    first, second, third = (r.name for r in plan.ranges[:3])
    breaking(replace(session, run_id="A"), plan, [first, second], of=second)
    assert first not in pending_ranges(move.session(), plan)
    breaking(replace(move.session(), run_id="B"), plan, [first, second, third], of=third)

    aftermath = after_failure(move.session(), "B")

    assert (aftermath.status, aftermath.is_half) == ("kept", True)
    assert set(imported_ids(move, plan, first)) <= set(held(target))


def test_that_another_range_was_taken_back_is_no_reason_to_be_quiet(move, breaking):
    session, plan = move.stage()
    first, second = (r.name for r in plan.ranges[:2])
    import_(replace(session, run_id="0"), plan, [first])
    breaking(replace(move.session(), run_id="B"), plan, [second])
    breaking(replace(move.session(), run_id="A"), plan, [first])
    assert after_failure(move.session(), "B").status == "rolled_back"

    aftermath = after_failure(move.session(), "A")

    assert (aftermath.status, aftermath.is_half) == ("kept", True)


def imported_ids(move, plan, name):
    [bounds] = [r for r in plan.ranges if r.name == name]
    ids = [f"s{number:02}" for number in range(12)]
    return [
        id_
        for id_ in ids
        if (bounds.lower is None or bounds.lower <= id_.encode())
        and (bounds.upper is None or id_.encode() < bounds.upper)
    ]


# Beside backups and what is put back


def test_a_range_is_pending_once_an_older_backup_of_it_was_put_back(move, source, target):
    move.run()
    source.set_state("s00", document(1000))
    moved_again(move, b"s00")
    session = move.session()
    plan = current(session)
    oldest = next(each for each in backups(session) if each.of == "target")

    rollback(session, oldest.backup_id)

    assert not held(target)
    assert pending_ranges(move.session(), plan) == [r.name for r in plan.ranges]


def test_nothing_counts_any_more_once_the_backup_of_an_older_plan_was_put_back(move, target):
    session, plan = move.stage()
    first = plan.ranges[0].name
    import_(session, plan, [first])
    [oldest] = backups(move.session())
    move.run(fresh=True)
    sync(move.session())
    session = move.session()
    plan = current(session)

    rollback(session, oldest.backup_id)

    assert "s00" not in held(target)
    assert pending_ranges(move.session(), plan) == [r.name for r in plan.ranges]
    assert not standing(session.ledger).proven
    assert current_cursor(session) is None
    with pytest.raises(RefusedError, match="has not been validated, or was taken back"):
        sync(move.session())


def test_a_backup_that_was_made_long_before_the_import_is_made_again(move, target):
    session, plan = move.stage()
    name = plan.ranges[0].name
    back_up(session, plan, [name])
    target.set_state("s00", b'{"only": "here"}')

    import_(move.session(), plan, [name])
    rollback(move.session())

    assert {id_: state for id_, (state, *_) in held(target).items()} == {"s00": {"only": "here"}}
    assert len(backups(move.session())) == 1


def test_a_backup_of_what_has_been_written_to_is_not_made_again(move, target, breaking):
    target.set_state("s00", b'{"was": "here"}')
    session, plan = move.stage()
    name = plan.ranges[0].name
    breaking(session, plan, [name])

    import_(move.session(), plan, [name])
    rollback(move.session())

    assert json.loads(target.get_state("s00")) == {"was": "here"}


def test_a_backup_that_is_being_put_back_is_not_made_again(move, target, monkeypatch):
    def killed(*_, **__):
        target.delete_state("s00")  # as it was about to be put back
        raise KeyboardInterrupt

    target.set_state("s00", b'{"was": "here"}')
    session, plan = move.stage()
    name = plan.ranges[0].name
    back_up(session, plan, [name])
    [made] = backups(session)
    target.set_state("s00", b'{"is": "another"}')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backup_module, "_write_back", killed)
        rollback(move.session(), made.backup_id)

    import_(move.session(), plan, [name])
    rollback(move.session(), made.backup_id)

    assert json.loads(target.get_state("s00")) == {"was": "here"}
