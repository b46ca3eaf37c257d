"""Compatibility: named checks of whether what was assessed can be moved into the target: ``pass``, ``warn`` or ``block``.

A check is of the *place* (privileges, memory, disk, versions) or of the *records* (what the target refuses, what falls
together). A run refuses at once for a block of the place. Records are only known by the sample here: a block of theirs is told
at once, and refuses the import, before its first write, when all of them have been read: so every record is named, and its
bytes are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from agui_pipelines.errors import MigrationError, RefusedError, SpecError, named
from agui_pipelines.phases.assess import Assessment
from agui_pipelines.phases.profile import BEYOND, LIMITS, NAMED, Found
from agui_pipelines.phases.session import Session
from agui_pipelines.ports import Clocked, Examination, Examined, Store
from agui_pipelines.spec import FileConfig, PostgresConfig, RedisConfig
from agui_pipelines.transforms import chain

NAMES: Final = frozenset(
    {
        *("target", "target_privileges", "server_versions", "source", "storable_records", "distinct_ids", "losses"),
        *(
            "overwritten_states",
            "reference_limits",
            "exact_documents",
            "target_memory",
            "target_eviction",
            "target_disk",
        ),
        *("target_files", "workspace_disk", "clocks", "wal_level", "recommended_backend", "large_states"),
    }
)

Verdict = Literal["pass", "warn", "block"]
Of = Literal["place", "records"]

_GB: Final = 10**9
_MIB: Final = 1024 * 1024
LARGE_VOLUME: Final = 100 * _GB
FAST: Final = 0.010
LARGE_STATE: Final = 10 * 10**6
"""Bytes, seconds and bytes from which on the guide recommends PostgreSQL, Redis and compression."""
_CLOCK_MS: Final = 5_000
_HEADROOM: Final = 1.2
"""What is needed is an estimate: below this many times of it, less than is there is a warning."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found: why, which records (the first hundred by id), and what to do."""

    name: str
    verdict: Verdict
    reason: str
    remedy: str = ""
    ids: tuple[str, ...] = ()
    count: int = 0
    of: Of = "place"
    accepted: bool = False
    """Whether it would block, had the migration file not accepted it."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ids": list(self.ids)}


@dataclass(slots=True)
class _Case:
    """What the checks look at."""

    session: Session
    assessment: Assessment
    examination: Examination | None = None
    held: tuple[str, ...] = ()
    """Ids of the sample that the target holds already."""
    target_clock: int | None = None
    failure: MigrationError | None = None
    """Why the target cannot be used."""
    same_place: bool = False
    tried: bool = True

    @property
    def share_held(self) -> float:
        ids = self.assessment.outlook.ids
        return len(self.held) / len(ids) if ids else 0.0

    @property
    def needed(self) -> int | None:
        """Bytes that the target will take more than it does now, about."""
        total, records, examined = self.assessment.total_bytes, self.assessment.records, self.examination
        if total is None or records is None or examined is None:
            return None
        each = total / records if records else 0
        rounded = -(-(each + examined.record_overhead) // examined.block) * examined.block
        return round(rounded * records * (1 - self.share_held))


def check(session: Session, assessment: Assessment, *, trying: bool = True) -> tuple[Check, ...]:
    """All checks. With `trying`, privileges are tried by writing something of no meaning to the target; see `ports`.

    Raises `SpecError` if the migration file accepts a check that there is not.
    """
    accepted = session.migration.assessment.accept
    if unknown := sorted(set(accepted) - NAMES):
        raise SpecError(
            f"assessment.accept: there is no check '{unknown[0]}'.", remedy=f"Checks: {', '.join(sorted(NAMES))}."
        )
    case = _Case(session, assessment, tried=trying)
    _look(case)
    found = [one for each in _CHECKS for one in each(case)]
    return tuple(
        replace(one, verdict="warn", accepted=True) if one.verdict == "block" and one.name in accepted else one
        for one in found
    )


def blocks(checks: Iterable[Check], of: Of | None = None) -> list[Check]:
    return [one for one in checks if one.verdict == "block" and of in (None, one.of)]


def require_possible(checks: Iterable[Check]) -> None:
    """Raises `RefusedError`, which names every block of the place with its remedy; see the module."""
    found = list(checks)
    blocking = blocks(found, "place")
    if not blocking:
        return
    told = "; ".join(f"{one.name}: {one.reason.rstrip('.')}" for one in blocking)
    names = ", ".join(one.name for one in blocking)
    raise RefusedError(
        f"{len(blocking)} compatibility check{'s block' if len(blocking) > 1 else ' blocks'} this migration: {told}.",
        why="Nothing was read for it or written.",
        remedy=f"{' '.join(one.remedy for one in blocking if one.remedy)} "
        f"If you know better: assessment: {{accept: [{names}]}}.",
        checks=[one.to_dict() for one in found],
        blocks=[one.name for one in blocks(found)],
    )


def _look(case: _Case) -> None:
    """Ask the target. What keeps it from being used becomes a finding, unless trying again may help."""
    with case.session.target() as target, case.session.source() as source:
        try:
            target.ping()
            case.same_place = source.place().overlaps(target.place())
            target.check()
            if isinstance(source, Clocked):
                case.target_clock = target.now() - source.now()
        except MigrationError as error:
            if error.transient:
                raise
            case.failure = error
            target.close()  # it may be in the middle of something, such as a transaction that cannot be ended
        try:
            _examine(case, target)
        except MigrationError as error:
            if error.transient:
                raise
            case.failure = case.failure or error


def _examine(case: _Case, target: Store) -> None:
    if isinstance(target, Examined):
        case.examination = target.examine(trying=case.tried and not case.same_place)
        case.held = () if case.same_place else tuple(target.holding(case.assessment.outlook.ids))


# The checks. Each yields at least one finding.

Finding = Callable[[_Case], Iterable[Check]]


def _target(case: _Case) -> Iterable[Check]:
    name = "target"
    if case.same_place and not case.session.migration.in_place:
        yield Check(
            name,
            "block",
            f"Source and target are the same place: {case.assessment.target}.",
            "Give the target another prefix, database, schema or folder.",
        )
    elif case.failure is not None:
        yield Check(
            name,
            "block",
            " ".join(part for part in (case.failure.message, case.failure.why) if part),
            case.failure.remedy or "See what the user of its configuration is permitted to do there.",
        )
    else:
        yield Check(name, "pass", f"{case.assessment.target} can be reached and used.")


def _privileges(case: _Case) -> Iterable[Check]:
    name = "target_privileges"
    tried = case.examination.privileges if case.examination else ()
    if not tried:
        why = "as a dry run writes nothing" if not case.tried else "as the target cannot be used"
        yield Check(name, "pass", f"Not tried, {why}.")
        return
    denied = [one for one in tried if one.denied]
    for needed, verdict in ((True, "block"), (False, "warn")):
        missing = [one for one in denied if one.needed is needed]
        if missing:
            what = "an import needs" if needed else "only taking an import back needs"
            told = "; ".join(f"{one.action}: {one.denied}" for one in missing)
            remedies = " ".join(dict.fromkeys(one.remedy for one in missing))
            yield Check(name, "block" if verdict == "block" else "warn", f"Denied, and {what} it: {told}.", remedies)
    if not denied:
        actions = ", ".join(one.action for one in tried)
        yield Check(name, "pass", f"Tried and taken back: {actions}.")


def _versions(case: _Case) -> Iterable[Check]:
    name, examined = "server_versions", case.examination
    if examined is None:
        yield Check(name, "pass", "Not known, as the target cannot be used.")
    elif examined.too_old:
        yield Check(
            name, "block", f"The target is {examined.system} {examined.version}. {examined.too_old}", "Upgrade it."
        )
    else:
        measured = case.assessment.measurement
        ours, theirs = f"{measured.system} {measured.version}".strip(), f"{examined.system} {examined.version}".strip()
        yield Check(name, "pass", f"From {ours} to {theirs}.")


def _eviction(case: _Case) -> Iterable[Check]:
    name, examined = "target_eviction", case.examination
    if examined is None or not isinstance(case.session.migration.target, RedisConfig):
        yield Check(name, "pass", "Only a Redis throws out what it holds.")
    elif examined.memory_limit is None:
        why = examined.unmeasured.get("memory limit and eviction policy", "it does not tell")
        yield Check(
            name,
            "warn",
            f"Whether the target throws out keys when its memory is full is not known: {why}.",
            "Let the user ask INFO memory, or see that maxmemory-policy is noeviction.",
        )
    elif not examined.memory_limit or not examined.eviction:
        yield Check(name, "pass", "It throws out nothing.")
    elif examined.eviction.startswith("allkeys"):
        yield Check(
            name,
            "block",
            f"Its policy is {examined.eviction}: when its {_bytes(examined.memory_limit)} are full, it throws out states.",
            "Set it: CONFIG SET maxmemory-policy noeviction.",
        )
    else:
        yield Check(
            name,
            "warn",
            f"Its policy is {examined.eviction}: when its {_bytes(examined.memory_limit)} are full, it throws out states that "
            "have an expiry before that is reached.",
            "Set it: CONFIG SET maxmemory-policy noeviction.",
        )


def _memory(case: _Case) -> Iterable[Check]:
    name, examined, needed = "target_memory", case.examination, case.needed
    if examined is None or not isinstance(case.session.migration.target, RedisConfig):
        yield Check(name, "pass", "Only a Redis holds all states in memory.")
        return
    required = case.assessment.requirements.get("max_memory")
    if needed is not None and required is not None and needed > required:
        yield Check(
            name,
            "warn",
            f"The states will take about {_bytes(needed)}, more than requirements.max_memory ({_bytes(required)}).",
            "Choose PostgreSQL or files for a target, or migrate fewer states.",
        )
    elif needed is None or examined.memory_limit is None or examined.memory_used is None:
        why = next(iter(examined.unmeasured.values()), "the number of states is not known")
        yield Check(name, "warn", f"Whether the states fit is not known: {why}.", "Let the user ask INFO memory.")
    else:
        limit = examined.memory_limit or examined.memory_of_machine
        free = None if limit is None else max(0, limit - examined.memory_used)
        what = "its limit" if examined.memory_limit else "the memory of its machine"
        # What is there of a machine is nobody's promise, so that only a limit of its own blocks.
        yield _room(name, needed, free, f"{what} leaves", "Raise maxmemory.", blocking=bool(examined.memory_limit))


def _target_disk(case: _Case) -> Iterable[Check]:
    name, examined, needed = "target_disk", case.examination, case.needed
    if examined is None or needed is None or examined.disk_free is None:
        about = f"; it will take about {_bytes(needed)} more" if needed is not None else ""
        yield Check(name, "pass", f"The target does not tell how much room its disks have{about}.")
        return
    yield _room(name, needed, examined.disk_free, "its file system leaves", "Make room there.", blocking=True)
    records = case.assessment.records or 0
    if examined.files_free is not None and records > examined.files_free:
        yield Check(
            "target_files",
            "block",
            f"It will take {records:,} files, and its file system has room for {examined.files_free:,} more.",
            "Use a file system with more inodes.",
        )


def _workspace_disk(case: _Case) -> Iterable[Check]:
    name, session = "workspace_disk", case.session
    total = case.assessment.total_bytes
    folder = _existing(str(session.workspace.root))
    if folder is None or total is None:
        why = "the number of states is not known" if folder else "it is no local folder"
        yield Check(name, "pass", f"How much room the workspace needs or has is not known: {why}.")
        return
    compressed = total * (case.assessment.profile.compressed or 1.0)
    identity = chain(session.migration.transforms, session.migration.folder).identity
    copies = 1 + (0 if identity else 1) + (case.share_held if session.migration.backup.before_import else 0)
    yield _room(
        name,
        round(compressed * copies),
        shutil.disk_usage(folder).free,
        "its file system leaves",
        "Make room there, or name another workspace.",
        blocking=True,
    )


def _room(name: str, needed: int, free: int | None, what: str, remedy: str, *, blocking: bool) -> Check:
    told = f"About {_bytes(needed)} are needed, and {what} {_bytes(free) if free is not None else 'an unknown amount'}."
    if free is not None and needed > free:
        return Check(name, "block" if blocking else "warn", told, remedy)
    if free is not None and needed * _HEADROOM > free:
        return Check(name, "warn", told, remedy)
    return Check(name, "pass", told)


def _clocks(case: _Case) -> Iterable[Check]:
    apart = case.target_clock
    if apart is not None and abs(apart) > _CLOCK_MS:
        yield Check(
            "clocks",
            "warn",
            f"The target's clock is {abs(apart) / 1000:,.1f} s {'ahead of' if apart > 0 else 'behind'} the source's. Expiries "
            "are moments, and are kept, but states expire by the target's clock.",
            "Set both by NTP.",
        )
    else:
        yield Check(
            "clocks", "pass", "Not more than 5 s apart." if apart is not None else "The source has none of its own."
        )


def _wal_level(case: _Case) -> Iterable[Check]:
    wanted = case.session.migration.text.get("strategy")
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    level = case.assessment.measurement.details.get("wal_level")
    if level is None or level == "logical" or kind not in ("rolling", "blue_green"):
        yield Check("wal_level", "pass", f"wal_level is {level}." if level else "The source is no PostgreSQL.")
        return
    yield Check(
        "wal_level",
        "warn",
        f"wal_level is {level}, so that deletions of the source cannot be followed while a {kind} migration goes on.",
        "Set wal_level = logical and restart the source, or compare both ends before the switch.",
    )


def _source(case: _Case) -> Iterable[Check]:
    assessment = case.assessment
    if assessment.states == 0 and not assessment.measurement.versions and not assessment.measurement.snapshots:
        yield Check(
            "source", "warn", f"{assessment.source} holds no state.", "Look at the source in the migration file."
        )
    elif meanwhile := assessment.usage.written_meanwhile:
        yield Check(
            "source",
            "warn",
            f"It was written to {meanwhile:,} times while it was assessed ({assessment.usage.of}): what is written after its "
            "key range was read stays behind.",
            "Stop what writes to it before the run, or run again afterwards.",
        )
    else:
        states = "an unknown number of" if assessment.states is None else f"{assessment.states:,}"
        yield Check("source", "pass", f"It holds {states} states.")


def _storable(case: _Case) -> Iterable[Check]:
    refused = case.assessment.outlook.refused
    if not refused:
        yield Check("storable_records", "pass", "The target takes every record of the sample.", of="records")
        return
    count = sum(one.found.count for one in refused.values())
    allowed = case.session.migration.limits.max_rejects
    kinds = "; ".join(f"{one.found.count:,} {reason} ({one.detail})" for reason, one in refused.items())
    ids = [id_ for one in refused.values() for id_ in one.found.ids]
    yield Check(
        "storable_records",
        "block" if count > allowed else "warn",
        f"{_sampled(count, case)} would be rejected: {kinds}",
        _remedy_of(refused.keys()),
        tuple(ids[:NAMED]),
        count,
        "records",
    )


def _remedy_of(reasons: Iterable[str]) -> str:
    remedies = {
        "unsafe_id": "The transform percent_encode makes such ids storable as file names, reversibly.",
        "id_too_long": "The transform rename_ids makes shorter ids.",
        "empty_id": "The transform rename_ids gives other ids.",
    }
    told = [remedies[reason] for reason in reasons if reason in remedies]
    return " ".join(
        [*told, "Mend them at the source or by a transform, or set limits.max_rejects to leave them behind."]
    )


def _collisions(case: _Case) -> Iterable[Check]:
    outlook = case.assessment.outlook
    if outlook.collisions:
        told = [f"{target!r} (from {named(sources)})" for target, sources in outlook.collisions.items()]
        yield Check(
            "distinct_ids",
            "block",
            f"After the transforms, different source ids want the same id: {', '.join(told[:5])}.",
            "Change the transforms so that different ids stay different.",
            tuple(outlook.collisions),
            outlook.collision_count,
            "records",
        )
    if outlook.shared:
        yield Check(
            "distinct_ids",
            "block",
            "Several records would take one place in the target: "
            f"{named([f'{one} and {other}' for one, other in outlook.shared])}.",
            "Change one of the ids by a transform or at the source, or choose another target.",
            tuple(id_ for pair in outlook.shared for id_ in pair)[:NAMED],
            len(outlook.shared),
            "records",
        )
    if not outlook.collisions and not outlook.shared:
        yield Check("distinct_ids", "pass", "Ids of the sample that differ stay different.", of="records")


def _losses(case: _Case) -> Iterable[Check]:
    accepted = case.session.migration.accept_losses
    found = {name: one for name, one in case.assessment.outlook.losses.items() if name not in accepted}
    if not found:
        yield Check("losses", "pass", "Nothing that carries meaning would be lost, or it is accepted.", of="records")
        return
    kinds = ", ".join(f"{name} of {one.count:,}" for name, one in found.items())
    line = f"accept_losses: [{', '.join(sorted({*accepted, *found}))}]"
    ids = [id_ for one in found.values() for id_ in one.ids]
    yield Check(
        "losses",
        "block",
        f"The target has no place for what records of the sample carry: {kinds}.",
        f"Accept it with this line in the migration file: {line}, or let documents carry it (keep).",
        tuple(ids[:NAMED]),
        sum(one.count for one in found.values()),
        "records",
    )


def _overwritten(case: _Case) -> Iterable[Check]:
    if not case.held:
        yield Check("overwritten_states", "pass", "The target holds no state of the sample yet.", of="records")
        return
    kept = case.session.migration.backup.before_import
    after = (
        "They are backed up before the import." if kept else "They are not backed up: backup.before_import is false."
    )
    yield Check(
        "overwritten_states",
        "warn",
        f"The target holds {_sampled(len(case.held), case)} already, and they would be overwritten. {after}",
        "Give the target another place if they are not to be. Look: agui-migrate run --dry-run tells which differ.",
        case.held[:NAMED],
        len(case.held),
        "records",
    )


def _limits(case: _Case) -> Iterable[Check]:
    over = case.assessment.profile.limits
    units = {"depth": "levels", "array": "items in an array", "object": "keys in an object"}
    yield from _of_records(
        "reference_limits",
        over,
        {
            limit: f"{found.count:,} with a {limit if limit not in units else 'document'} of up to {found.greatest:,} "
            f"{units.get(limit, 'bytes')} (limit {LIMITS[limit]:,})"
            for limit, found in over.items()
        },
        "AG-UI itself refuses to change such states; they are migrated all the same: ",
        "Split them, or raise its limits where it has such settings.",
        "No record of the sample exceeds what AG-UI itself allows.",
    )


def _numbers(case: _Case) -> Iterable[Check]:
    found = {name: one for name, one in case.assessment.profile.findings.items() if name in (BEYOND, "duplicate_keys")}
    told = {
        BEYOND: "{:,} with integers beyond 2^53, which Go and JavaScript round when they read them",
        "duplicate_keys": "{:,} with a key named twice in one object, of which readers see the last",
    }
    yield from _of_records(
        "exact_documents",
        found,
        {name: told[name].format(one.count) for name, one in found.items()},
        "Kept as they are, but read otherwise by others: ",
        "Write such numbers as strings, and each key once, at the source.",
        "Every reader sees the documents of the sample alike.",
    )


def _of_records(
    name: str, found: dict[str, Found], told: dict[str, str], beginning: str, remedy: str, fine: str
) -> Iterable[Check]:
    if not found:
        yield Check(name, "pass", fine, of="records")
        return
    ids = list(dict.fromkeys(id_ for one in found.values() for id_ in one.ids))
    count = sum(one.count for one in found.values())
    yield Check(name, "warn", f"{beginning}{'; '.join(told.values())}.", remedy, tuple(ids[:NAMED]), count, "records")


def _recommendations(case: _Case) -> Iterable[Check]:
    """The guide's rules."""
    assessment, target = case.assessment, case.session.migration.target
    volume, latency = assessment.total_bytes, assessment.requirements.get("max_latency")
    if volume is not None and volume > LARGE_VOLUME and not isinstance(target, PostgresConfig):
        yield Check(
            "recommended_backend",
            "warn",
            f"The source holds about {_bytes(volume)}; over 100 GB PostgreSQL is recommended.",
            "Consider target.type: postgresql.",
        )
    if latency is not None and latency < FAST and not isinstance(target, RedisConfig):
        yield Check(
            "recommended_backend",
            "warn",
            f"requirements.max_latency is {latency * 1000:g} ms; under 10 ms Redis is recommended.",
            "Consider target.type: redis.",
        )
    large = [(id_, size) for id_, size in _largest(assessment) if size > LARGE_STATE]
    if large:
        compressing = not isinstance(target, FileConfig) and target.compression
        yield Check(
            "large_states",
            "warn",
            f"States over 10 MB: at least {len(large):,}, the largest of {_bytes(large[0][1])}; compression is recommended"
            f"{', and configured' if compressing else ''}.",
            "Set compression in the application's configuration of the store, or split such states.",
            tuple(id_ for id_, _ in large),
            len(large),
            "records",
        )
    else:
        yield Check("large_states", "pass", "No state that was found is over 10 MB.", of="records")


def _largest(assessment: Assessment) -> list[tuple[str, int]]:
    found = {**dict(assessment.sizes.largest), **dict(assessment.measurement.largest)}
    return sorted(found.items(), key=lambda item: -item[1])


def _sampled(count: int, case: _Case) -> str:
    return f"{count:,} of {case.assessment.profile.states:,} sampled states" if count != 1 else "1 sampled record"


def _existing(path: str) -> Path | None:
    """The folder of a local path, or the nearest above it that is there."""
    if "://" in path:
        return None
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder if os.path.isdir(folder) else None  # noqa: PTH112 - of a path that may be anything


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - the unit
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


_CHECKS: Final[tuple[Finding, ...]] = (
    _target,
    _privileges,
    _versions,
    _source,
    _storable,
    _collisions,
    _losses,
    _overwritten,
    _limits,
    _numbers,
    _memory,
    _eviction,
    _target_disk,
    _workspace_disk,
    _clocks,
    _wal_level,
    _recommendations,
)
