"""A rolling migration goes range by range at its rate, and a run does what it is told while it goes on."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from agui_pipelines.errors import AbortedError, RefusedError, UsageError
from agui_pipelines.owner import Owner
from agui_pipelines.pace import TokenBucket
from agui_pipelines.phases import control, pacing
from agui_pipelines.phases import export as exporting
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.pacing import require_carried_out
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.rollback import after_failure
from agui_pipelines.phases.standing import BEGUN
from agui_pipelines.phases.transform import transform
from agui_pipelines.staging import Workspace

STATES = 60


@pytest.fixture
def move(legacy, migration, tmp_path):
    """Moves 60 states of a Redis into files, by a rolling migration unless it says otherwise."""
    legacy.mset({f"session:{i:02}": json.dumps({"number": i}) for i in range(STATES)})
    place = legacy.connection_pool.connection_kwargs
    return migration(
        source={
            "type": "redis_keys",
            "connection_url": f"redis://{place['host']}:{place['port']}/{place['db']}",
            "match": "session:*",
        },
        target={"type": "file", "file_options": {"base_dir": str(tmp_path / "store"), "durable": False}},
        strategy={"type": "rolling", "rate": 100_000},
        parallelism=4,
    )


def planned(move, **changes):
    """A session, its plan and the names of all ranges."""
    session = replace(move.but(**changes).session(), run_id="run-1")
    made = plan(session)
    return session, made, [r.name for r in made.ranges]


def moved(move):
    """What the target holds."""
    with move.session().target() as target:
        return {id_: json.loads(target.get_state(id_)) for id_ in target.list_states()}


class Clock(threading.Event):
    """Time that passes only where somebody waits for it; set as any event."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def wait(self, timeout=None):
        if not self.is_set():
            self.now += timeout
        return self.is_set()


def test_what_is_read_and_what_is_written_goes_at_the_rate_and_key_range_by_key_range(move, monkeypatch):
    clock = Clock()
    passed = passing(monkeypatch, clock)
    worked = watch_ranges(monkeypatch)
    session, made, names = planned(move, strategy={"type": "rolling", "rate": 2})
    session = replace(session, stop=clock)

    with control.going(session.workspace, session.migration) as run:
        run.bucket = TokenBucket(lambda: clock.now)
        run.begin()
        export(session, made, names)
        exported = passed.copy()
        transform(session, made, names)
        passed.clear()
        import_(session, made, names)

    assert worked == [(name, 1) for name in names]
    for times in (exported, passed):
        assert len(times) == STATES
        assert max(sum(start <= at < start + 10 for at in times) for start in times) <= 21
        assert times[-1] - times[0] == pytest.approx((STATES - 1) / 2, abs=1)
    assert moved(move) == {f"session:{i:02}": {"number": i} for i in range(STATES)}


def passing(monkeypatch, clock):
    """When each record has passed, from now on."""
    paced, times = pacing.paced, []

    def watched(session, batches):
        for batch in paced(session, batches):
            times.extend([clock.now] * batch.num_rows)
            yield batch

    monkeypatch.setattr(pacing, "paced", watched)
    return times


def watch_ranges(monkeypatch):
    """The ranges that are exported, each with how many are at the same time."""
    found: list[tuple[str, int]] = []
    active = threading.Semaphore(0)
    export_range = exporting._export_range

    def watched(*arguments):
        active.release()
        found.append((arguments[-1], active._value))
        try:
            return export_range(*arguments)
        finally:
            active.acquire()

    monkeypatch.setattr(exporting, "_export_range", watched)
    return found


def test_other_strategies_know_no_rate(move):
    session, made, names = planned(move, strategy="big_bang")

    assert pacing.workers(session) is None
    with control.going(session.workspace, session.migration) as run:
        assert run.bucket.rate is None
        with pytest.raises(RefusedError, match="no rate"):
            control.command(session.workspace, "story", "rate=1")
        export(session, made, names)


def test_blue_green_is_to_come(move):
    with pytest.raises(RefusedError, match="cannot be carried out by a run yet"):
        require_carried_out(move.but(strategy="blue_green").session().migration)
    require_carried_out(move.session().migration)
    require_carried_out(move.but(strategy=None).session().migration)


@pytest.fixture
def begun():
    """Lets a phase run on a thread; gives its future once it goes on."""
    with ThreadPoolExecutor(1) as pool:

        def begin(session, work, *arguments):
            future = pool.submit(work, session, *arguments)
            while not control.runs(session.workspace):
                assert not future.done(), future.result()
                time.sleep(0.01)
            return future

        yield begin


def test_a_run_is_paused_given_another_rate_and_resumed(move, begun, monkeypatch):
    passed = passing(monkeypatch, Clock())
    notes = []
    session, made, names = planned(move, strategy={"type": "rolling", "rate": 4})
    session = replace(session, listener=lambda progress: notes.append(progress.note))
    future = begun(session, export, made, names)

    [paused] = control.command(session.workspace, "story", "pause")
    assert (paused.paused, paused.seen, paused.rate) == (True, 1, 4)
    time.sleep(0.5)  # for who had looked before, and waits for its turn
    before = len(passed)
    time.sleep(1.5)
    assert len(passed) == before < STATES

    [faster] = control.command(session.workspace, "story", "rate=100000")
    assert (faster.paused, faster.rate) == (True, 100_000)
    control.command(session.workspace, "story", "resume")
    assert future.result(60).records == STATES
    assert [note.partition(" by")[0] for note in notes if note] == ["It is held", "It goes on."]
    assert session.workspace.names("control") == []


def test_what_is_aborted_is_resumed(move, begun):
    session, made, names = planned(move, strategy={"type": "rolling", "rate": 3})
    future = begun(session, export, made, names)

    control.command(session.workspace, "story", "abort")
    with pytest.raises(AbortedError, match=r"control abort.*to resume"):
        future.result(60)

    again, same, names = planned(move)
    assert same.plan_id == made.plan_id
    assert export(again, same, names).records == STATES


def test_one_that_is_paused_can_be_aborted_too(move, begun):
    session, made, names = planned(move, strategy={"type": "rolling", "rate": 3})
    future = begun(session, export, made, names)

    control.command(session.workspace, "story", "pause")
    control.command(session.workspace, "story", "abort")
    with pytest.raises(AbortedError):
        future.result(60)


def test_an_import_that_is_aborted_is_not_taken_back_and_resumed(move, begun):
    session, made = move.stage()
    names = [r.name for r in made.ranges]
    slow = replace(move.but(strategy={"type": "rolling", "rate": 3}).session(), run_id="run-1")
    future = begun(slow, import_, made, names)
    while not slow.ledger.entries(phase=BEGUN):
        time.sleep(0.01)

    control.command(slow.workspace, "story", "abort")
    with pytest.raises(AbortedError):
        future.result(60)

    aftermath = after_failure(session, "run-1")
    assert aftermath.status == "kept"
    assert "control abort. To resume, run again." in aftermath.sentence
    import_(session, made, names)
    assert len(moved(move)) == STATES


def test_a_command_is_for_the_run_that_goes_on(move):
    session = move.session()
    with pytest.raises(RefusedError, match="No run of 'story' goes on"):
        control.command(session.workspace, "story", "pause")

    dead = replace(Owner.here("story"), process=2**22 - 1, started="1")
    left = control.Going(dead, "rolling", 5.0, paused=False, aborted=False)
    session.workspace.write(f"control/{dead.token}-run.json", left.to_json())
    session.workspace.write(f"control/{dead.token}-command.json", b"{}")
    with pytest.raises(RefusedError, match="No run"):
        control.command(session.workspace, "story", "abort")
    assert session.workspace.names("control") == []

    with control.going(session.workspace, session.migration) as run:
        assert not run.wish.aborted


@pytest.mark.parametrize("word", ["stop", "rate", "rate=", "rate=0", "rate=-1", "rate=fast", "rate=1e400", "pause "])
def test_another_word_is_no_command(move, word):
    with pytest.raises(UsageError, match="is no command"):
        control.command(move.session().workspace, "story", word)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"unknown": 1}', b'{"rate": "x"}', b'{"rate": -5}'])
def test_a_damaged_command_disturbs_nobody(move, monkeypatch, content):
    monkeypatch.setattr(control, "LOOK_SECONDS", 0.0)
    session = move.session()
    with control.going(session.workspace, session.migration) as run:
        session.workspace.write(f"control/{run.owner.token}-command.json", content)
        session.require_going()


@pytest.fixture
def at_once(monkeypatch):
    """Commands are seen at the next batch, and nobody waits for their answer."""
    monkeypatch.setattr(control, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.0)


def test_two_commands_at_once_are_both_heard(move, monkeypatch, at_once):
    session = move.session()
    both, write = threading.Barrier(2), Workspace.write

    def together(workspace, name, content, **options):
        if name.endswith("-command.json"):
            both.wait(30)  # until the other one has made up its mind too
        write(workspace, name, content, **options)

    with control.going(session.workspace, session.migration) as run:
        monkeypatch.setattr(Workspace, "write", together)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda word: control.command(session.workspace, "story", word), ("pause", "abort")))
        wish = run.look()
    assert (wish.paused, wish.aborted) == (True, True)


def test_what_is_undone_is_not_aborted(move, at_once):
    session = move.session()
    with control.going(session.workspace, session.migration):
        control.command(session.workspace, "story", "abort")
        control.see_through(session.workspace)
        session.require_going()


def test_a_way_back_is_controlled_as_what_it_leads_back_from(move, at_once):
    session = move.session()
    back = replace(
        session, workspace=Workspace(session.migration.workspace_url, "story-back"), steered_by=session.workspace
    )
    with control.going(session.workspace, session.migration):
        control.command(session.workspace, "story", "abort")
        with pytest.raises(AbortedError):
            back.require_going()
