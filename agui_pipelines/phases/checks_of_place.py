"""Compatibility checks of the place: whether the target and the workspace can be used, and have the room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agui_pipelines.phases.checks import Case, Check, Finding
from agui_pipelines.spec import PostgresConfig, RedisConfig
from agui_pipelines.transforms import chain
from agui_pipelines.units import amount

_GB: Final = 10**9
LARGE_VOLUME: Final = 100 * _GB
FAST: Final = 0.010
"""Bytes and seconds from which on the guide recommends PostgreSQL and Redis."""
_CLOCK_MS: Final = 5_000
_HEADROOM: Final = 1.2
"""What is needed is an estimate: below this many times of it, less than is there is a warning."""


def _target(case: Case) -> Iterable[Check]:
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


def _privileges(case: Case) -> Iterable[Check]:
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
            yield Check(name, "block" if verdict == "block" else "warn", f"Refused, and {what} it: {told}.", remedies)
    if not denied:
        actions = ", ".join(one.action for one in tried)
        yield Check(name, "pass", f"Tried and taken back: {actions}.")


def _versions(case: Case) -> Iterable[Check]:
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


def _source(case: Case) -> Iterable[Check]:
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


def _memory(case: Case) -> Iterable[Check]:
    name, examined, needed = "target_memory", case.examination, case.needed
    if examined is None or not isinstance(case.session.migration.target, RedisConfig):
        yield Check(name, "pass", "Only a Redis holds all states in memory.")
        return
    required = case.assessment.requirements.get("max_memory")
    if needed is not None and required is not None and needed > required:
        yield Check(  # beside what the server itself allows, which may be less
            name,
            "warn",
            f"The states will take about {amount(needed)}, more than requirements.max_memory ({amount(required)}).",
            "Choose PostgreSQL or files for a target, or migrate fewer states.",
        )
    if needed is None or examined.memory_limit is None or examined.memory_used is None:
        why = next(iter(examined.unmeasured.values()), "the number of states is not known")
        yield Check(name, "warn", f"Whether the states fit is not known: {why}.", "Let the user ask INFO memory.")
    else:
        limit = examined.memory_limit or examined.memory_of_machine
        free = None if limit is None else max(0, limit - examined.memory_used)
        what = "its limit" if examined.memory_limit else "the memory of its machine"
        # What is there of a machine is nobody's promise, so that only a limit of its own blocks.
        yield _room(name, needed, free, f"{what} leaves", "Raise maxmemory.", blocking=bool(examined.memory_limit))


def _eviction(case: Case) -> Iterable[Check]:
    name, examined = "target_eviction", case.examination
    if examined is None or not isinstance(case.session.migration.target, RedisConfig):
        yield Check(name, "pass", "Only a Redis throws out what it holds.")
    elif why := examined.unmeasured.get("memory limit and eviction policy"):
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
            f"Its policy is {examined.eviction}: when its {amount(examined.memory_limit)} are full, it throws out states.",
            "Set it: CONFIG SET maxmemory-policy noeviction.",
        )
    else:
        yield Check(
            name,
            "warn",
            f"Its policy is {examined.eviction}: when its {amount(examined.memory_limit)} are full, it throws out states that "
            "have an expiry before that is reached.",
            "Set it: CONFIG SET maxmemory-policy noeviction.",
        )


def _target_disk(case: Case) -> Iterable[Check]:
    name, examined, needed = "target_disk", case.examination, case.needed
    if examined is None or needed is None or examined.disk_free is None:
        about = f"; it will take about {amount(needed)} more" if needed is not None else ""
        yield Check(name, "pass", f"The target does not tell how much room its disks have{about}.")
        return
    yield _room(name, needed, examined.disk_free, "its file system leaves", "Make room there.", blocking=True)
    records = round((case.assessment.records or 0) * (1 - case.share_held))
    if examined.files_free is not None and records > examined.files_free:
        yield Check(
            "target_files",
            "block",
            f"It will take {records:,} files, and its file system has room for {examined.files_free:,} more.",
            "Use a file system with more inodes.",
        )
    else:
        yield Check("target_files", "pass", "There is room for as many files, or they are not counted.")


def _workspace_disk(case: Case) -> Iterable[Check]:
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
    told = f"About {amount(needed)} are needed, and {what} {amount(free) if free is not None else 'an unknown amount'}."
    if free is not None and needed > free:
        return Check(name, "block" if blocking else "warn", told, remedy)
    if free is not None and needed * _HEADROOM > free:
        return Check(name, "warn", told, remedy)
    return Check(name, "pass", told)


def _existing(path: str) -> Path | None:
    """The folder of a local path, or the nearest above it that is there."""
    if "://" in path:
        return None
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder if os.path.isdir(folder) else None  # noqa: PTH112 - of a path that may be anything


def _clocks(case: Case) -> Iterable[Check]:
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


def _wal_level(case: Case) -> Iterable[Check]:
    wanted = case.session.migration.text.get("strategy")
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    level = case.assessment.measurement.details.get("wal_level")
    if level is None or level == "logical" or kind not in ("rolling", "blue_green"):
        unknown = "It is not known of this source, or it has none."
        yield Check("wal_level", "pass", f"wal_level is {level}." if level else unknown)
        return
    yield Check(
        "wal_level",
        "warn",
        f"wal_level is {level}, so that deletions of the source cannot be followed while a {kind} migration goes on.",
        "Set wal_level = logical and restart the source, or compare both ends before the switch.",
    )


def _recommended(case: Case) -> Iterable[Check]:
    """The guide's rules."""
    assessment, target = case.assessment, case.session.migration.target
    volume, latency = assessment.total_bytes, assessment.requirements.get("max_latency")
    told: dict[str, str] = {}
    if volume is not None and volume > LARGE_VOLUME and not isinstance(target, PostgresConfig):
        told["postgresql"] = f"The source holds about {amount(volume)}; over 100 GB PostgreSQL is recommended."
    if latency is not None and latency < FAST and not isinstance(target, RedisConfig):
        told["redis"] = f"requirements.max_latency is {latency * 1000:g} ms; under 10 ms Redis is recommended."
    for kind, reason in told.items():
        yield Check("recommended_backend", "warn", reason, f"Consider target.type: {kind}.")
    if not told:
        yield Check("recommended_backend", "pass", "The guide recommends no other for this volume and latency.")


OF_PLACE: Final[tuple[Finding, ...]] = (
    _target,
    _privileges,
    _versions,
    _source,
    _memory,
    _eviction,
    _target_disk,
    _workspace_disk,
    _clocks,
    _wal_level,
    _recommended,
)
