"""``decommission``: what would be deleted at the source, and, once it is confirmed, deleting it."""

from __future__ import annotations

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.phases import decommission as phase
from agui_pipelines.phases.decommission import Outlook
from agui_pipelines.phases.notify import notified
from agui_pipelines.phases.session import Session


def decommission(migration: spec.Migration, confirm: str | None, *, json: bool) -> None:
    """Show what would go and what it waits for; with the migration's name, delete it. Raises `RefusedError`."""
    if confirm is None:
        with output.progress() as listener:
            found = phase.outlook(Session.open(migration, listener))
        _show(found, json=json)
        return
    with output.progress() as listener:
        session = Session.open(migration, listener)
        with notified(session, phase.PHASE):
            report = phase.decommission(session, confirm=confirm)
    if json:
        output.print_json(report.to_dict())
        return
    values: dict[str, object] = {"Deleted": report.deleted, "Gone already": report.gone, "Left": report.left.count}
    output.rows(f"Decommissioned {report.source}", {**values, "Archive": report.archive_id})
    for id_ in report.left.ids[:20]:
        output.note(f"left, as it was written to since: {id_}")
    output.note(f"To bring it back: agui-migrate backup restore --id {report.archive_id}")


def _show(found: Outlook, *, json: bool) -> None:
    if json:
        output.print_json({"dry_run": True, **found.to_dict()})
        return
    counts: dict[str, object] = {f"{kind}s": count for kind, count in found.records.items()}
    output.rows(f"What would be deleted from {found.source}", {"ids": found.ids, **counts})
    output.table(
        ("Check", "", ""), [(check.name, "yes" if check.passed else "no", check.detail) for check in found.checks]
    )
    if found.ended_at:
        output.note(f"It was decommissioned at {found.ended_at}.")
    elif found.ready:
        begun = " It was begun, and goes on where it was." if found.archive_id else ""
        output.note(f"Nothing was deleted.{begun} To do it: agui-migrate decommission --confirm {found.migration}")
    else:
        output.note("Nothing was deleted, and nothing would be now.")
