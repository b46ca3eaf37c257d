"""Compatibility checks of the records, as the sample shows them: what the target refuses, overwrites, or would not keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agui_pipelines.errors import named
from agui_pipelines.phases.assess import Assessment
from agui_pipelines.phases.checks import Case, Check, Finding, sampled
from agui_pipelines.phases.profile import BEYOND, LIMITS, NAMED, Found
from agui_pipelines.spec import FileConfig
from agui_pipelines.units import amount

LARGE_STATE: Final = 10 * 10**6
"""Bytes from which on the guide recommends compression."""


def _storable(case: Case) -> Iterable[Check]:
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
        f"{sampled(count, case)} would be rejected: {kinds}",
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


def _collisions(case: Case) -> Iterable[Check]:
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


def _losses(case: Case) -> Iterable[Check]:
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


def _overwritten(case: Case) -> Iterable[Check]:
    if case.in_place:
        told = "Each record is replaced where it is, as in_place asks for, and backed up before."
        yield Check("overwritten_states", "pass", told, of="records")
        return
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
        f"The target holds {sampled(len(case.held), case)} already, and they would be overwritten. {after}",
        "Give the target another place if they are not to be. Look: agui-migrate run --dry-run tells which differ.",
        case.held[:NAMED],
        len(case.held),
        "records",
    )


def _limits(case: Case) -> Iterable[Check]:
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


def _numbers(case: Case) -> Iterable[Check]:
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


def _large(case: Case) -> Iterable[Check]:
    """The guide's rule."""
    assessment, target = case.assessment, case.session.migration.target
    large = [(id_, size) for id_, size in _largest(assessment) if size > LARGE_STATE]
    if large:
        compressing = not isinstance(target, FileConfig) and target.compression
        yield Check(
            "large_states",
            "warn",
            f"States over 10 MB: at least {len(large):,}, the largest of {amount(large[0][1])}; compression is recommended"
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


OF_RECORDS: Final[tuple[Finding, ...]] = (_storable, _collisions, _losses, _overwritten, _limits, _numbers, _large)
