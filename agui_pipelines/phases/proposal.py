"""Proposal: the document of a plan. What will be moved, how, how long it takes, what it needs, and what can go wrong.

It is written once, as JSON and as Markdown, under the plan's id, and is never changed: a listing of the source's keys that is
made when the plan is taken up leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agui_pipelines import losses
from agui_pipelines.phases.estimate import Parts, Taken, parts
from agui_pipelines.phases.markdown import markdown
from agui_pipelines.phases.plan import PHASE, Plan, lists_again_only_if_changed
from agui_pipelines.phases.rehearse import Rehearsal, Round, rehearse
from agui_pipelines.phases.risks import risks
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.strategy import Facts, recommend
from agui_pipelines.phases.timeline import (
    BETWEEN,
    START_UP,
    TIMED,
    TOTAL,
    Seconds,
    document,
    document_name,
    timings,
)
from agui_pipelines.spec import FileConfig, PostgresConfig

FORMAT: Final = 1
NOT_REHEARSED: Final = "No rehearsal was asked for."


def propose(
    session: Session, plan: Plan, *, rehearsing: bool = True, start_up: Seconds | None = None
) -> dict[str, Any]:
    """The document of a plan: the one that it has, or a new one, which is written and returned as plain values.

    `start_up` is what a run takes before its first phase and around its steps, if whoever runs it knows that.
    """
    existing = document(session.workspace, plan.plan_id)
    if existing is not None:
        return existing
    rehearsal = Rehearsal(failure=NOT_REHEARSED)
    if rehearsing:
        rehearsal = rehearse(session, plan, size=_known_bytes(session, plan))
    values = compose(session, plan, rehearsal, start_up)
    session.workspace.write(document_name(plan.plan_id, "md"), markdown(values).encode())
    content = orjson.dumps(values, option=orjson.OPT_INDENT_2)
    session.workspace.write(document_name(plan.plan_id), content, exclusive=True)  # last: without it there is none
    return values


def compose(session: Session, plan: Plan, rehearsal: Rehearsal, start_up: Seconds | None = None) -> dict[str, Any]:
    """The document as plain values. Reads the catalogue and asks the target how much it holds; writes nothing."""
    migration = session.migration
    facts = _facts(session, plan, rehearsal)
    held = _held(session)
    timeline = _timeline(session, plan, rehearsal, held, start_up)
    total = _seconds(timeline[TOTAL])
    undoing = _seconds(timeline["phases"].get("import"))
    ledger = _loss_ledger(session, plan, rehearsal)
    recommended = recommend(facts, total, asked=migration.strategy, undoing=undoing)
    return {
        "format": FORMAT,
        "plan_id": plan.plan_id,
        "migration": migration.name,
        "fingerprint": plan.fingerprint,
        "made_at": plan.created_at,
        "written_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "source": {"place": plan.source, "server": plan.source_server, "type": migration.source.type},
        "target": {
            "place": plan.target,
            "server": plan.target_server,
            "type": migration.target.type,
            "records_already_there": held,
        },
        "volume": {"keys": facts.keys, "bytes": facts.bytes, "updates_per_second": facts.updates},
        "strategy": recommended.to_dict(),
        "timeline": timeline,
        "resources": _resources(session, plan, rehearsal),
        "risks": risks(migration, recommended.chosen, rehearsal, ledger, held, _written(rehearsal)),
        "loss_ledger": ledger,
        "ranges": [{"range": r.name, "keys": r.keys} for r in plan.ranges],
    }


def _facts(session: Session, plan: Plan, rehearsal: Rehearsal) -> Facts:
    """What the catalogue's weights, the newest assessment or else the sample say."""
    size = _known_bytes(session, plan)
    if size is None and rehearsal.rounds:
        largest = max(rehearsal.rounds, key=lambda each: each.keys)
        size = round(largest.bytes / largest.keys * plan.keys)
    requirements = getattr(session.migration, "requirements", None)
    return Facts(
        keys=plan.keys,
        bytes=size,
        updates=_updates(session),
        availability=getattr(requirements, "availability", None),
        ranges=sum(1 for r in plan.ranges if r.keys),
    )


def _updates(session: Session) -> float | None:
    """By the newest assessment, or the newest that watched the source for longer than a run does, whichever counted more."""
    told = [_assessed(session, for_).get("updates_per_second") for for_ in (None, "assess")]
    return max((rate for rate in told if rate is not None), default=None)


def _written(rehearsal: Rehearsal) -> float | None:
    """States that the target takes in a second once it is at it: what its connections and tables take first does not count."""
    per_key = _parts(rehearsal.rounds)["import"].per_key.expected if rehearsal.rounds else 0.0
    return 1 / per_key if per_key else None


def _known_bytes(session: Session, plan: Plan) -> int | None:
    weighed = _weighed(session, plan)
    return _assessed(session).get("document_bytes") if weighed is None else weighed


def _assessed(session: Session, for_: str | None = None) -> Mapping[str, Any]:
    """The public form of the newest assessment of this migration file, or of that for a purpose; empty if there is none."""
    entry = session.ledger.last("assess", unit=for_, basis=session.migration.fingerprint)
    found: Mapping[str, Any] = entry.outputs.get("public", {}) if entry else {}
    return found


def _weighed(session: Session, plan: Plan) -> int | None:
    """The sum of the catalogue's weights, if those are bytes: sources that do not know them give every key a weight of 1."""
    with session.workspace.reading(plan.catalogue) as file:
        batches = pq.ParquetFile(file).iter_batches(columns=["weight"])
        total = sum(pc.sum(batch.column(0)).as_py() or 0 for batch in batches)
    return total if total > plan.keys else None


def _held(session: Session) -> int:
    """How many records the target holds, all of which a validation reads."""
    with session.target() as target:
        if not target.exists():
            return 0
        stats = target.stats()
    return stats.states + stats.versions + stats.snapshots


def _timeline(
    session: Session, plan: Plan, rehearsal: Rehearsal, held: int, start_up: Seconds | None
) -> dict[str, Any]:
    if not rehearsal.rounds:
        why = rehearsal.failure
        return {"measured": False, "why_not": why, "phases": {}, TOTAL: None, "rehearsal": rehearsal.to_dict()}
    phases = {PHASE: _listing(session, plan)} if PHASE in timings(session.ledger, plan.plan_id) else {}
    started = start_up.expected / 2 if start_up else 0.0  # about half of it lies before the first phase
    found = _parts(rehearsal.rounds)
    for name, its in found.items():
        if name == "expect_exported":  # waits for its worker, which gets ready while a run plans and exports
            elapsed = started + sum(seconds.expected for seconds in phases.values())
            phases[name] = its.overlapping(rehearsal.suites_ready, elapsed).of(plan.keys)
        else:
            phases[name] = its.of(plan.keys)
    _add_what_is_there(phases, found, rehearsal.rounds[-1], plan.keys, held)
    if start_up is not None:
        looked = _assessed(session, "migrate").get("cost", {}).get("seconds", 0.0)  # a run looks too, before it plans
        phases[START_UP] = start_up + Seconds(looked * 0.7, looked, looked * 1.3)
    total = sum(phases.values(), start=Seconds(0.0, 0.0, 0.0))
    return {
        "measured": True,
        "why_not": "",
        "phases": {name: seconds.rounded() for name, seconds in phases.items()},
        TOTAL: total.rounded(),
        "rehearsal": rehearsal.to_dict(),
    }


def _listing(session: Session, plan: Plan) -> Seconds:
    """A run lists all keys again, as it has just been done, unless the source can tell that it has not changed."""
    took = timings(session.ledger, plan.plan_id)[PHASE]
    with session.source(plan.listing_id) as source:
        if lists_again_only_if_changed(source):
            return Seconds(0.0, 0.0, took * 1.3)
    return Seconds(took * 0.7, took, took * 1.3)


def _parts(rounds: Sequence[Round]) -> dict[str, Parts]:
    """Of each phase, in order; the first round is the one that is not measured by."""
    found = {}
    for name in (*TIMED, BETWEEN):
        taken = [Taken(each.keys, each.seconds[name]) for each in rounds if name in each.seconds]
        if taken:
            found[name] = parts(taken[0], taken[1:] or taken)
    return found


def _add_what_is_there(
    phases: dict[str, Seconds], found: Mapping[str, Parts], sample: Round, keys: int, held: int
) -> None:
    """A validation reads all that the target holds, a backup what has ids of the source: how much that is is not known."""
    there = round(held * sample.keys / max(1, sum(sample.records.values())))
    if there:
        read = found["validate"].per_key
        phases["validate"] += Seconds(0.0, read.expected * there, read.high * there)
        copied = found["export"].per_key.high * min(keys, there)
        phases["backup"] += Seconds(0.0, copied / 2, copied)


def _seconds(values: Mapping[str, float] | None) -> Seconds | None:
    return Seconds(**values) if values else None


def _resources(session: Session, plan: Plan, rehearsal: Rehearsal) -> dict[str, Any]:
    migration = session.migration
    largest = max(rehearsal.rounds, key=lambda each: each.keys) if rehearsal.rounds else None
    share = plan.keys / largest.keys if largest else 0.0
    target = migration.target
    extra = 4 if isinstance(target, PostgresConfig) else 0 if isinstance(target, FileConfig) else 3
    return {
        "workspace": str(session.workspace),
        "workspace_bytes": round(largest.workspace_bytes * share) if largest else None,
        "target_bytes": round(largest.target_bytes * share) if largest and largest.target_bytes is not None else None,
        "memory_bytes": rehearsal.peak_bytes,
        "ranges": len(plan.ranges),
        "parallelism": migration.parallelism,
        "batch_size": migration.batch_size,
        "source_connections": 0 if isinstance(migration.source, FileConfig) else migration.parallelism + 1,
        "target_connections": migration.parallelism + extra if extra else 0,
    }


def _loss_ledger(session: Session, plan: Plan, rehearsal: Rehearsal) -> list[dict[str, Any]]:
    """What becomes of each property on this route, and how many records of the last sample had it."""
    sampled = {row["property"]: row for row in rehearsal.rounds[-1].loss_ledger} if rehearsal.rounds else {}
    accepted = set(session.migration.accept_losses)
    return [
        {
            "property": name,
            "carries": "meaning" if name in losses.MEANING else "form",
            "verdict": verdict,
            "accepted": name in accepted if verdict == "lost" and name in losses.MEANING else None,
            "present_in_sample": sampled[name]["present"] if name in sampled else 0 if rehearsal.rounds else None,
        }
        for name, verdict in plan.route.items()
    ]
