"""``backup``: make, list, verify, restore and delete backups of a migration's two stores."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.errors import UsageError
from agui_pipelines.phases import backup
from agui_pipelines.phases.backup import Backup
from agui_pipelines.phases.session import End, Session


def create(migration: spec.Migration, of: str, *, json: bool) -> None:
    """Back up a whole store, and show the backup. Raises `UsageError` for an end that no migration has."""
    if of not in get_args(End):
        raise UsageError(f"--of is '{of}'; it can be target or source.")
    end: End = "source" if of == "source" else "target"
    with output.progress() as listener:
        made = backup.create(Session.open(migration, listener), end)
    _show(made, json=json)


def listed(migration: spec.Migration, *, json: bool) -> None:
    """Show all backups, the newest last."""
    found = backup.backups(Session.open(migration))
    if json:
        output.print_json({"migration": migration.name, "backups": [describe(b) for b in found]})
    elif not found:
        output.note(f"There is no backup of '{migration.name}' yet. Make one with: agui-migrate backup create")
    else:
        rows = [(b.backup_id, b.of, _scope(b), sum(b.records.values()), b.bytes, b.created_at) for b in found]
        output.table(("Backup", "Of", "Holds", "Records", "Bytes", "Made"), rows)


def verify(migration: spec.Migration, backup_id: str | None, *, json: bool) -> None:
    """Read a backup from one end to the other."""
    session = Session.open(migration)
    found = backup.find(session, backup_id)
    backup.verify(session, found)
    if json:
        output.print_json({**describe(found), "verified": True})
    else:
        output.note(f"The backup {found.backup_id} is intact: {sum(found.records.values()):,} records.")


def restore(migration: spec.Migration, backup_id: str | None, *, yes: bool, json: bool) -> None:
    """Put a backup back, once the user has agreed."""
    session = Session.open(migration)
    found = backup.find(session, backup_id)
    if not yes:
        output.agree(
            f"This replaces what {found.place} holds {_under(found)} by what it held at {found.created_at}. Go on?"
        )
    with output.progress() as listener:
        report = backup.restore(Session.open(migration, listener), found)
    if json:
        output.print_json({"migration": migration.name, **asdict(report)})
        return
    values: dict[str, object] = {f"{kind}s put back": count for kind, count in report.records.items()}
    values |= {f"{kind}s removed": count for kind, count in report.removed.items()}
    output.rows(f"Restored {found.place}, and proven", {**values, "states expired meanwhile": report.expired})


def delete(migration: spec.Migration, backup_id: str | None, *, force: bool, json: bool) -> None:
    """Delete a backup that is named."""
    session = Session.open(migration)
    found = backup.find(session, backup_id)
    backup.delete(session, found, force=force)
    if json:
        output.print_json({**describe(found), "deleted": True})
    else:
        output.note(f"Deleted the backup {found.backup_id}.")


def describe(found: Backup) -> dict[str, Any]:
    """A backup as plain values."""
    return {
        "backup_id": found.backup_id,
        "of": found.of,
        "place": found.place,
        "plan_id": found.plan_id or None,
        "whole": found.is_whole,
        "archive": found.archive,
        "keys": sum(r.keys for r in found.ranges),
        "records": found.records,
        "bytes": found.bytes,
        "created_at": found.created_at,
    }


def _show(found: Backup, *, json: bool) -> None:
    if json:
        output.print_json(describe(found))
        return
    values: dict[str, object] = {f"{kind}s": count for kind, count in found.records.items()}
    output.rows(
        f"Backup {found.backup_id} of {found.place}", {**values, "Bytes": found.bytes, "Made": found.created_at}
    )


def _scope(found: Backup) -> str:
    if found.archive:
        return "the archive of the source"
    return "everything" if found.is_whole else f"the ids of {found.plan_id}"


def _under(found: Backup) -> str:
    if found.archive:
        return "under the ids that were archived"
    return "as a whole" if found.is_whole else f"under the ids that {found.plan_id} writes"
