"""Rehearse: the whole pipeline on samples of the source, into a scratch place beside the target, to see what takes how long.

A sample is made of runs of neighbouring keys from the whole key space, one a key range, with their histories: neighbours,
because a database reads what lies between two keys. The scratch place and the workspace of the rehearsal are removed
afterwards, however it ends; what a rehearsal that was killed has left is removed by the next one. Neither the target's
records nor the ledger of the migration are touched.
"""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from agui_pipelines import losses
from agui_pipelines.errors import LockLostError, MigrationError
from agui_pipelines.expectations import worker
from agui_pipelines.keyspace import CATALOGUE, KeyRange, Span, after, range_names
from agui_pipelines.ledger import Ledger
from agui_pipelines.owner import Owner
from agui_pipelines.phases.expect import expect_exported, expect_staged
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import back_up, import_
from agui_pipelines.phases.plan import Plan, require_other_place
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session, StandsFor
from agui_pipelines.phases.timeline import BETWEEN, timings
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import require_passed, validate
from agui_pipelines.progress import silent
from agui_pipelines.spec import Limits, TargetConfig
from agui_pipelines.staging import Workspace
from agui_pipelines.staging.workspace import new_id
from agui_pipelines.stores.scratch import Scratches, is_left, new_name, remove_left, scratch_places

PHASE: Final = "rehearse"
LARGE: Final = 20_000
"""Keys of the larger sample, of which the smaller one has a quarter, and the first one of all a thousandth.

While worker processes start, a thousand records or so are read beside them for nothing; samples as small as that would say too
little of what each record takes.
"""
SAMPLE_BYTES: Final = 256 * 1024 * 1024
"""What a sample may hold at most, about. Of a source that does not tell, the first round tells how large states are."""

_ROUNDS: Final = 5
"""A first one that is not measured by, then both sizes twice, in turn."""
_FOLDER: Final = "rehearsals"
_OWNER: Final = "owner.json"
_ALL_KEYS: Final = 1_000_000
"""Keys up to which what belongs to no key is looked for in each round, as a run does; some sources read all keys for it."""


@dataclass(frozen=True, slots=True)
class Round:
    """One sample, moved from the source into the scratch place and proven."""

    keys: int
    records: dict[str, int]
    bytes: int
    """Of documents, as they were exported."""
    seconds: dict[str, float]
    """By the names of `timeline.TIMED` and `timeline.BETWEEN`; the plan is not part of it."""
    workspace_bytes: int
    target_bytes: int | None
    """What the sample takes in the target, where that can tell."""
    loss_ledger: list[dict[str, Any]]
    suites_ready: float = 0.0
    """See `Rehearsal`; of interest in the first round only."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Rounds in the order in which they were made. The first was also the first in its process."""

    rounds: tuple[Round, ...] = ()
    failure: str = ""
    """Why there is nothing to go by; empty if there is."""
    left: str = ""
    """What could not be removed afterwards; empty if everything was."""
    suites_ready: float = 0.0
    """Seconds after which the worker process that runs expectation suites had given its first answer."""
    peak_bytes: int | None = None
    """Resident memory of this process at its highest."""

    def to_dict(self) -> dict[str, Any]:
        rounds = [
            {**asdict(each), "seconds": {name: round(seconds, 3) for name, seconds in each.seconds.items()}}
            for each in self.rounds
        ]
        for each in rounds:
            del each["loss_ledger"], each["suites_ready"]
        return {
            "rounds": rounds,
            "failure": self.failure,
            "left": self.left,
            "suites_ready": round(self.suites_ready, 3),
            "peak_bytes": self.peak_bytes,
        }


def rehearse(session: Session, plan: Plan, *, large: int = LARGE, size: int | None = None) -> Rehearsal:
    """Move samples of a plan's keys into scratch places, a round each. What is in the way is told, not raised.

    `size`: bytes of all documents together, if that is known.
    """
    if not plan.keys:
        return Rehearsal(failure="The source is empty, so there is nothing to rehearse with.")
    rounds: list[Round] = []
    left: list[str] = []
    meter = session.meter(PHASE)
    try:
        plan.verify(session.workspace)
        with scratch_places(session.migration.target, session.migration.folder) as places:
            retried(session, meter, partial(remove_left, places))
            _remove_left_workspaces(session)
            large, each = min(large, plan.keys), (size or 0) / plan.keys
            sizes = [_most(max(1, large // 1000), rounds, each)]
            for number in range(_ROUNDS):
                if number == 1:  # by now it is known how large states are
                    large = _most(large, rounds, each)
                    small = max(1, large // 4)
                    sizes += [small, large, small, large]
                with _scratch(session, places, left) as (name, config):
                    rounds.append(_round(session, plan, name, config, sizes[number]))
                meter.add(sizes[number], rounds[-1].bytes)
    except LockLostError:
        raise
    except MigrationError as error:
        return Rehearsal(failure=f"The rehearsal failed: {error.message} {error.why}".rstrip(), left=" ".join(left))
    finally:
        meter.finish()
    return Rehearsal(tuple(rounds), "", " ".join(left), rounds[0].suites_ready, _peak())


def _most(keys: int, rounds: list[Round], each: float) -> int:
    """`keys`, or as many as do not hold too much, if one holds `each` bytes or what it held in the rounds before."""
    each = max([each, *(r.bytes / r.keys for r in rounds)])
    return max(1, min(keys, int(SAMPLE_BYTES / each))) if each else keys


@contextmanager
def _scratch(session: Session, places: Scratches, left: list[str]) -> Iterator[tuple[str, TargetConfig]]:
    """A scratch place that lasts for the block. What cannot be removed is told in `left`, and by the next rehearsal."""
    name, owner = new_name(), Owner.here(session.migration.name)
    folder = f"{_FOLDER}/{name}"
    session.workspace.write(f"{folder}/{_OWNER}", owner.to_json())
    try:
        yield name, places.make(name, owner)
    finally:
        owner.leave()
        try:
            retried(session, session.meter(PHASE), partial(places.remove, name))
        except MigrationError as error:
            left.append(f"{places.where(name)} could not be removed: {error.message} The next rehearsal will.")
        session.workspace.remove_tree(folder)


def _remove_left_workspaces(session: Session) -> None:
    for name in session.workspace.names(_FOLDER):
        file = f"{_FOLDER}/{name}/{_OWNER}"
        owner = Owner.parsed(session.workspace.read(file)) if session.workspace.has(file) else None
        if is_left(name, owner):
            session.workspace.remove_tree(f"{_FOLDER}/{name}")


def _round(session: Session, plan: Plan, name: str, target: TargetConfig, keys: int) -> Round:
    scratch = _session(session, plan, name, target)
    sample = _sample(session, scratch, plan, keys)
    with scratch.source() as source, scratch.target() as store:
        require_other_place(scratch, source, store)
    names = [r.name for r in sample.ranges]
    began = time.monotonic()
    exported = export(scratch, sample, names)
    expect_exported(scratch, sample)
    suites_ready = worker.age()
    transform(scratch, sample, names)
    expect_staged(scratch, sample)
    back_up(scratch, sample, names)
    import_(scratch, sample, names)
    report = validate(scratch, sample)
    took = time.monotonic() - began
    require_passed(report)
    seconds = timings(scratch.ledger, sample.plan_id)
    records = {kind: sum(r.records.get(kind, 0) for r in exported.ranges) for kind in ("state", "version", "snapshot")}
    with scratch.target() as store:
        stats = store.stats()
    return Round(
        keys=keys,
        records=records,
        bytes=exported.bytes,
        seconds={**seconds, BETWEEN: max(0.0, took - sum(seconds.values()))},
        workspace_bytes=session.workspace.used(f"{_FOLDER}/{name}"),
        target_bytes=stats.bytes,
        loss_ledger=report.loss_ledger,
        suites_ready=suites_ready,
    )


def _session(session: Session, plan: Plan, name: str, target: TargetConfig) -> Session:
    """A session of the same migration into the scratch place, which nothing that a sample cannot decide makes fail."""
    migration = session.migration
    changed = migration.model_copy(
        update={
            "target": target,
            "in_place": False,
            "limits": Limits(max_rejects=sys.maxsize, retries=migration.limits.retries),
            "accept_losses": tuple(losses.MEANING),
        }
    )
    workspace = Workspace(migration.workspace_url, f"{migration.name}/{_FOLDER}/{name}")
    return Session(
        changed,
        workspace,
        Ledger(workspace),
        silent,
        session.heartbeat,
        run_id=f"{PHASE}-{name}",
        stands_for=StandsFor(session.workspace, plan.listing_id, plan.keys),
    )


def _sample(session: Session, scratch: Session, plan: Plan, keys: int) -> Plan:
    """A plan of `keys` keys of another one, in runs of neighbours that lie as far from each other as they can."""
    count = min(session.migration.ranges, keys)
    names = range_names(session.migration.ranges)
    ranges: list[KeyRange] = []
    chosen: list[bytes] = []
    with session.workspace.reading(plan.catalogue) as file:
        catalogue = pq.ParquetFile(file)
        for number in range(count):
            first = keys * number // count
            length = keys * (number + 1) // count - first
            # The first run begins with the first key of all, the last ends with the last.
            start = first + (plan.keys - keys) * number // max(1, count - 1)
            run = [
                key for some in Span(KeyRange("", None, None, start, length, 0), catalogue).keys(length) for key in some
            ]
            lower = None if start == 0 and plan.keys <= _ALL_KEYS else run[0]
            ranges.append(KeyRange(names[number], lower, after(run[-1]), first, length, length))
            chosen += run
    plan_id = new_id("plan")
    sample = replace(plan, plan_id=plan_id, listing="", keys=keys, ranges=tuple(ranges), resumed=False)
    table = pa.table([pa.array(chosen, pa.binary()), pa.repeat(1, keys)], schema=CATALOGUE)
    with scratch.workspace.writing(sample.catalogue) as file:
        pq.write_table(table, file, compression="zstd", compression_level=1)
    return replace(sample, catalogue_checksum=scratch.workspace.checksum(sample.catalogue))


def _peak() -> int:
    """Bytes; the operating systems count in different units."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
