"""Assess: what the source holds and how it is used, measured from the source itself before anything is planned.

Counts come from the server where it has them, what documents look like from a sample, what would become of them from trying the
transforms and the target's rules on that sample. Nothing is written. What could not be measured says so, and why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from agui_pipelines.errors import StoreError
from agui_pipelines.pace import Pace
from agui_pipelines.phases.export import digested_or_rejected
from agui_pipelines.phases.plan import listing_id
from agui_pipelines.phases.profile import INSPECTED, Profile, Profiler
from agui_pipelines.phases.prospect import Outlook, Prospector
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import trial
from agui_pipelines.ports import Activity, Clocked, Measured, Measurement, OnReject, Reader
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sizes import Sizes
from agui_pipelines.sources.spooled import Spooled
from agui_pipelines.spec import CustomConfig

PHASE: Final = "assess"
_HOUR: Final = 3600
SAMPLE_BYTES: Final = 1024**3
"""Documents that are read at most, however few they are."""
RUN_SECONDS: Final = 1.0
"""How long a run counts, and again how long it reads a sample."""
WATCH_SECONDS: Final = 2.0
"""How long the use of the source is watched, unless a run waits for it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How a source is used: per second, while it was watched and since it has been counting. None where it is not told."""

    of: str = ""
    """What is counted."""
    watched_seconds: float | None = None
    reads: float | None = None
    writes: float | None = None
    counted_seconds: float | None = None
    reads_since: float | None = None
    writes_since: float | None = None
    written_meanwhile: int | None = None
    """Writes during the assessment."""

    @property
    def read_share(self) -> float | None:
        """Reads among reads and writes; while it was watched, or, if nothing happened then, since it has been counting."""
        for reads, writes in ((self.reads, self.writes), (self.reads_since, self.writes_since)):
            if reads is not None and writes is not None and reads + writes:
                return reads / (reads + writes)
        return None

    def to_dict(self) -> dict[str, Any]:
        found = {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(self).items()}
        share = self.read_share
        return {**found, "read_share": None if share is None else round(share, 3)}


@dataclass(frozen=True, slots=True)
class Cost:
    """What the assessment itself took of the source."""

    commands: int
    """Commands, statements or files opened."""
    records: int
    bytes_read: int
    """Of documents and their ids."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found of a source, and of what it would be in the target."""

    source: str
    target: str
    measurement: Measurement
    profile: Profile
    outlook: Outlook
    usage: Usage
    cost: Cost
    sample: int
    """States that were asked for; `profile` says how many were looked at."""
    histories: dict[str, dict[str, float]] = field(default_factory=dict)
    """Versions and snapshots of a state: average, p50, p95, p99 and maximum, by kind."""
    unmeasured: dict[str, str] = field(default_factory=dict)
    requirements: dict[str, Any] = field(default_factory=dict)
    source_clock: int | None = None
    """How far the source's clock is ahead of ours, in milliseconds; None where it has none of its own."""
    at: str = ""

    @property
    def states(self) -> int | None:
        """How many there are, as exact as it is known."""
        if self.measurement.states is None and "states" not in self.unmeasured:
            return self.profile.states
        return self.measurement.states

    @property
    def records(self) -> int | None:
        """States, versions and snapshots, as far as they are counted."""
        counts = [self.states, self.measurement.versions, self.measurement.snapshots]
        return None if self.states is None else sum(count or 0 for count in counts)

    @property
    def sizes(self) -> Sizes:
        """Of all states where the source tells, else of those of the sample, with the largest of all that were found."""
        if self.measurement.sizes is not None:
            return self.measurement.sizes
        for id_, size in self.measurement.largest:
            self.profile.sizes.name(id_, size)
        return self.profile.sizes

    @property
    def document_bytes(self) -> int | None:
        """Of all states."""
        if self.measurement.sizes is not None:
            return self.measurement.sizes.total
        return None if self.states is None else round(self.profile.sizes.average * self.states)

    @property
    def total_bytes(self) -> int | None:
        """Of the documents of states, versions and snapshots; the latter two are taken to be as large as the states."""
        if self.states is None or self.records is None:
            return None
        return round((self.document_bytes or 0) + self.sizes.average * (self.records - self.states))

    @property
    def updates_per_second(self) -> float | None:
        """The highest of what was counted while it was watched and before, and of what the states' own times tell."""
        told = [self.usage.writes_since, self._updated_per_second]
        rates = [rate for rate in told if rate is not None]
        # That nothing was written for two seconds, by itself, says nothing of the day.
        return max([*rates, self.usage.writes or 0.0]) if rates or self.usage.writes else None

    @property
    def _updated_per_second(self) -> float | None:
        """By how many states of the sample were last updated within an hour; None where the source does not tell."""
        if not self.profile.ages or not self.states:
            return None
        return self.profile.written_in_last_hour / self.profile.states * self.states / _HOUR

    def to_dict(self) -> dict[str, Any]:
        measured, updates = self.measurement, self.updates_per_second
        return {
            "source": self.source,
            "target": self.target,
            "assessed_at": self.at,
            "system": measured.system,
            "version": measured.version,
            "states": self.states,
            "versions": measured.versions,
            "snapshots": measured.snapshots,
            "estimated": list(measured.estimated),
            "document_bytes": self.document_bytes,
            "stored_bytes": measured.bytes,
            "stored_bytes_of": measured.bytes_of if measured.bytes is not None else "",
            "sizes": self.sizes.to_dict(),
            "sizes_of": "all states" if measured.sizes is not None else "the sample",
            "usage": self.usage.to_dict(),
            "updates_per_second": None if updates is None else float(f"{updates:.6g}"),
            "histories": self.histories,
            "sample": {"asked": self.sample, **self.profile.to_dict()},
            "outlook": self.outlook.to_dict(),
            "details": measured.details,
            "clock_ahead_ms": self.source_clock,
            "requirements": self.requirements,
            "unmeasured": self.unmeasured,
            "cost": {**asdict(self.cost), "seconds": round(self.cost.seconds, 3)},
        }


def assess(session: Session, *, sample: int | None = None, thorough: bool = True) -> Assessment:
    """Measure the source.

    `sample`: states that are read, else as the migration file says. `thorough` counts everything and watches the use for
    `WATCH_SECONDS`; otherwise, as part of a run, it takes about twice `RUN_SECONDS` at most. Raises `StoreError` if there is no
    source, `ConnectionFailedError` if it cannot be reached.
    """
    count = sample or session.migration.assessment.sample
    meter = session.meter(PHASE, total=count)
    with session.source(_newest_listing(session)) as source, session.target() as target:
        source.ping()
        if not source.exists():
            raise StoreError(
                f"There is no store to read from at {source.describe()}.",
                why="Nothing can be measured.",
                remedy="Look at the source's folder or schema in the migration file.",
            )
        profiler = Profiler(source.now() / 1000) if isinstance(source, Clocked) else Profiler()
        prospector = Prospector(trial(session, target), target, session.migration.carried)
        looking = _Looking(session, source, thorough, count)
        activities = looking.watched()
        measurement = looking.measured()
        bytes_read = 0
        ids: list[str] = []

        def reject(found: Reject) -> None:
            profiler.reject(found)
            prospector.reject(found)

        for kind, bare in looking.sampled(reject):
            bytes_read += bare.nbytes
            for batch in digested_or_rejected(kind, bare, reject, source):
                profiler.add(kind, batch)
                prospector.add(kind, batch)
                if kind is Kind.STATE:
                    ids += batch.column("state_id").to_pylist()
                    meter.add(batch.num_rows, bare.nbytes)
            if bytes_read > SAMPLE_BYTES:
                looking.unmeasured["the rest of the sample"] = f"{SAMPLE_BYTES:,} bytes of documents had been read"
                break
        lengths = looking.history_lengths(ids)
        if session.migration.history_limit:
            prospector.shorten(ids, lengths.get(Kind.VERSION, ()), session.migration.history_limit)
        activities += looking.activity()
        clock = source.now() - time.time_ns() // 1_000_000 if isinstance(source, Clocked) else None
        cost = Cost(looking.asked, profiler.result().states, bytes_read, meter.finish().seconds)
        return Assessment(
            source=source.describe(),
            target=target.describe(),
            measurement=measurement,
            profile=profiler.result(),
            outlook=prospector.result(),
            usage=_usage(activities, watched=thorough),
            cost=cost,
            sample=count,
            histories={f"{kind}s": _distribution(found) for kind, found in lengths.items() if found},
            unmeasured={**_unseen(measurement, profiler.result()), **measurement.unmeasured, **looking.unmeasured},
            requirements=session.migration.requirements.model_dump(exclude_none=True),
            source_clock=clock,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


@dataclass(slots=True)
class _Looking:
    """Looks at a source, within the pace of the migration file."""

    session: Session
    source: Reader
    thorough: bool
    count: int
    unmeasured: dict[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        return self.source.asked if isinstance(self.source, Measured) else 0

    def activity(self) -> list[Activity]:
        found = self.source.activity() if isinstance(self.source, Measured) else None
        return [] if found is None else [found]

    def watched(self) -> list[Activity]:
        """What was counted of the source's use before and after some time in which we do nothing."""
        before = self.activity()
        if not self.thorough:
            self.unmeasured["use while it is watched"] = "a run does not wait for it"
        if not before or not self.thorough:
            return before
        self.session.stop.wait(WATCH_SECONDS)
        return before + self.activity()

    def measured(self) -> Measurement:
        if isinstance(self.source, Measured):
            return self.source.measure(self._pace())
        if isinstance(self.source, Spooled):
            return self._of_spool(self.source)
        return Measurement(self.source.ping(), unmeasured={"states": "a source of this type does not tell"})

    def sampled(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        pace = self._pace()
        states = 0
        for kind, batch in self._batches(pace, on_reject):
            states += batch.num_rows if kind is Kind.STATE else 0
            # A batch may be larger than what is left of the sample.
            over = max(0, states - self.count) if kind is Kind.STATE else 0
            yield kind, batch.slice(0, batch.num_rows - over)
            going = pace(batch.num_rows)
            if not going or (states >= self.count and not isinstance(self.source, Measured)):
                if states < self.count:
                    self.unmeasured["the rest of the sample"] = f"a run reads it for {RUN_SECONDS:g} seconds at most"
                return

    def history_lengths(self, ids: list[str]) -> dict[Kind, list[int]]:
        if not isinstance(self.source, Measured):
            if Kind.VERSION in self.source.kinds:
                self.unmeasured["history lengths"] = "such a source tells them only when all of it has been read"
            return {}
        if not ids:
            return {}
        found = self.source.history_lengths(ids, self._pace())
        if not found and Kind.VERSION in self.source.kinds:
            self.unmeasured["history lengths"] = (
                "whose a version is stands within its file; a run does not read all of them"
            )
        return found

    def _pace(self) -> Pace:
        rate = self.session.migration.assessment.rate
        return Pace(rate, None if self.thorough else RUN_SECONDS, self.session.stop)

    def _batches(self, pace: Pace, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        source = self.source
        if isinstance(source, Measured):
            yield from source.sampled(self.count, pace, on_reject)
        elif isinstance(source, Spooled) and source.is_filled:
            for kind in source.kinds:
                for batch in source.all_of(kind):
                    yield kind, batch
        elif isinstance(source, Spooled) and not isinstance(self.session.migration.source, CustomConfig):
            yield from source.beginning(on_reject)

    def _of_spool(self, source: Spooled) -> Measurement:
        counts: dict[str, int] = {}
        why = dict.fromkeys(("reads and writes", "bytes"), "a source of this type has no counters")
        if source.is_filled:
            counts = source.counted()
            why["states of now"] = "such a source is read once, when it is planned: these are of the newest plan"
        else:
            why["states"] = "such a source is read once, when it is planned; assess it again after that"
            if isinstance(self.session.migration.source, CustomConfig):
                why["documents"] = (
                    "a reader of your own is not read but for a plan, as it may yield its records only once"
                )
            else:
                why["documents from all over the source"] = (
                    "it can only be read from its start, where the sample is from"
                )
        return Measurement(
            source.ping(),
            states=counts.get("state", 0) if counts else None,
            versions=counts.get("version", 0) if counts else None,
            snapshots=counts.get("snapshot", 0) if counts else None,
            unmeasured=why,
        )


def _unseen(measurement: Measurement, profile: Profile) -> dict[str, str]:
    """What is not known of all states because only some were looked at, or not into."""
    unseen = {}
    if measurement.sizes is None and not measurement.largest and profile.states < (measurement.states or 0):
        unseen["largest states of all"] = "those that are named are of the sample"
    if profile.uninspected:
        unseen[f"what {profile.uninspected:,} documents of the sample hold"] = (
            f"over {INSPECTED:,} bytes, or unreadable, a document is told by its size alone"
        )
    return unseen


def _usage(activities: list[Activity], *, watched: bool) -> Usage:
    """Two activities from before and after watching, if that was done, and one from the end."""
    if not activities:
        return Usage()
    first, last = activities[0], activities[-1]
    then = activities[1] if watched and len(activities) > 2 else None  # noqa: PLR2004 - see above
    seconds = then.at - first.at if then else None

    def rate(after: int | None, before: int | None) -> float | None:
        return None if after is None or before is None or not seconds else max(0, after - before) / seconds

    def since(count: int | None) -> float | None:
        return None if count is None or not first.seconds else count / first.seconds

    changed = None if last.writes is None or first.writes is None else max(0, last.writes - first.writes)
    return Usage(
        of=first.of,
        watched_seconds=seconds,
        reads=rate(then.reads, first.reads) if then else None,
        writes=rate(then.writes, first.writes) if then else None,
        counted_seconds=first.seconds,
        reads_since=since(first.reads),
        writes_since=since(first.writes),
        written_meanwhile=changed if len(activities) > 1 else None,
    )


def _distribution(lengths: list[int]) -> dict[str, float]:
    ordered = sorted(lengths)

    def percentile(percent: int) -> int:
        return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]

    return {
        "average": round(sum(ordered) / len(ordered), 2),
        **{f"p{percent}": percentile(percent) for percent in (50, 95, 99)},
        "maximum": ordered[-1],
    }


def _newest_listing(session: Session) -> str:
    entry = session.ledger.last("plan")
    return listing_id(entry) if entry else ""
