"""Performance: what a migration file requires of its target, beside what the migration has measured of it.

Nothing is measured for what is not required. Throughput is what the import wrote and the validation read: an application may
well see more, as both do other work meanwhile. Latency is that of single reads, one after the other on one connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final

from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.retry import retried
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.phases.validate import ValidationReport
from agui_pipelines.ports import Examined
from agui_pipelines.progress import Meter
from agui_pipelines.records import Kind
from agui_pipelines.spec import RedisConfig
from agui_pipelines.units import amount

PHASE: Final = "performance"
READS: Final = 200
"""States that are read one by one where a latency is required."""
_SHARE: Final = 0.95
"""Part of the reads that have to be as quick as is required; of a few, one is always slow."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One requirement, and what was measured of it."""

    requirement: str
    """As the migration file calls it."""
    required: str
    """For people, as the next."""
    measured: str
    met: bool | None
    """None where it was not measured, which `measured` gives the reason of."""
    name: str = ""
    """What the figure is called in charts."""
    figure: float | None = None


def measure(session: Session, plan: Plan, report: ValidationReport) -> tuple[Finding, ...]:
    """Hold a validated plan to the migration file's `requirements`; a finding each, and none where nothing is required.

    What is missed is also told as a note. Reads a few states of the target if a latency is required.
    """
    meter = session.meter(PHASE)
    found = (*_latency(session, plan, meter), *_throughput(session, report), *_memory(session), *_availability(session))
    for each in found:
        if each.met is False:
            meter.tell(f"requirements.{each.requirement} is {each.required}, and is missed: {each.measured}.")
    return found


def _latency(session: Session, plan: Plan, meter: Meter) -> Iterator[Finding]:
    required = session.migration.requirements.max_latency
    if required is None:
        return
    name, asked = "max_latency", f"{required * 1000:g} ms"
    times = retried(session, meter, partial(_read_times, session, _some_ids(session, plan)))
    if not times:
        yield Finding(name, asked, "not measured, as nothing was moved", None)
        return
    reached = sorted(times)[round(_SHARE * (len(times) - 1))]
    told = f"{_SHARE:.0%} of {len(times):,} single reads took up to {reached * 1000:.3g} ms"
    yield Finding(name, asked, told, reached <= required, "read_latency_seconds", reached)


def _throughput(session: Session, report: ValidationReport) -> Iterator[Finding]:
    required = session.migration.requirements.min_throughput
    if required is None:
        return
    read = round(report.rate * report.seconds), report.seconds
    measured = {"written": ("by the import", _written(session, report.plan_id)), "read": ("by the validation", read)}
    for verb, (how, (records, seconds)) in measured.items():
        if not records or not seconds:
            yield Finding("min_throughput", f"{required:,g} a second", f"not measured, as nothing was {verb}", None)
            continue
        rate = records / seconds
        told = f"{rate:,.0f} records a second were {verb} {how} ({records:,} in {seconds:,.1f} s)"
        name = f"{verb}_records_per_second"
        yield Finding("min_throughput", f"{required:,g} a second", told, rate >= required, name, round(rate))


def _memory(session: Session) -> Iterator[Finding]:
    required = session.migration.requirements.max_memory
    if required is None:
        return
    if not isinstance(session.migration.target, RedisConfig):
        told = "not measured: only a Redis holds all states in memory"
        yield Finding("max_memory", amount(required), told, None)
        return
    with session.target() as target:
        used = target.examine(trying=False).memory_used if isinstance(target, Examined) else None
    if used is None:
        yield Finding("max_memory", amount(required), "not measured: the server does not tell it", None)
        return
    told = f"the server uses {amount(used)} in all"
    yield Finding("max_memory", amount(required), told, used <= required, "memory_used_bytes", used)


def _availability(session: Session) -> Iterator[Finding]:
    required = session.migration.requirements.availability
    if required is not None:
        told = "not measured: only its use will show, and the plan goes by it"
        yield Finding("availability", f"{required:g} %", told, None)


def _some_ids(session: Session, plan: Plan) -> list[str]:
    """Ids of states from all over the key ranges."""
    staged = list(staged_ranges(session, plan).values())
    of_each = -(-READS // max(1, len(staged)))
    found: list[str] = []
    for snapshot in staged:
        ids = (id_ for batch in snapshot.batches(Kind.STATE, ["state_id"]) for id_ in batch.column(0).to_pylist())
        found += islice(ids, of_each)
    return found


def _read_times(session: Session, ids: Sequence[str]) -> list[float]:
    """Seconds that each read took, but for the first, which connects."""
    times: list[float] = []
    with session.target() as target:
        for id_ in [*ids[:1], *ids]:
            session.require_going()
            began = time.perf_counter()
            target.get_state(id_)
            times.append(time.perf_counter() - began)
    return times[1:]


def _written(session: Session, plan_id: str) -> tuple[int, float]:
    """Records that the newest import under a plan wrote, and the seconds it took; not those that an earlier run had written."""
    timing = session.ledger.last("timing", plan_id=plan_id, unit="import")
    if timing is None:
        return 0, 0.0
    seconds = float(timing.outputs["seconds"])
    began = datetime.fromisoformat(timing.at) - timedelta(seconds=seconds + 1)
    imports = session.ledger.entries(phase="import", plan_id=plan_id)
    return sum(int(e.outputs["records"]) for e in imports if datetime.fromisoformat(e.at) >= began), seconds
