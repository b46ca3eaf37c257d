"""``upgrade``: bring a store to a newer version, where it is."""

from __future__ import annotations

from typing import Final

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.phases.session import End, Session
from agui_pipelines.upgrade import versions
from agui_pipelines.upgrade.store import UpgradeReport, preview
from agui_pipelines.upgrade.store import upgrade as upgraded

_NEW_KEYS: Final = "2.1.0"
"""From which version on configuration files are written in another dialect."""


def upgrade(
    migration: spec.Migration,
    of: End,
    *,
    to: str | None,
    assumed: str | None,
    dry_run: bool,
    fresh: bool,
    yes: bool,
    json: bool,
) -> None:
    """Say what is going to be done, ask, do it, and print what was done."""
    to = None if to is None else versions.asked(to, "--to")
    assumed = None if assumed is None else versions.asked(assumed, "--from")

    def agree(report: UpgradeReport) -> None:
        if not json:
            _print_steps(report)
        if not yes:
            what = f"upgrades {report.place} from {report.version} to {report.to}, after a backup"
            if not report.steps:
                what = f"only has {report.place} say that it is of version {report.to}"
            output.agree(f"This {what}. Nobody else may write there meanwhile. Go on?")

    if dry_run:
        with output.progress() as listener:
            report = preview(Session.open(migration, listener), of, to=to, assumed=assumed)
    else:
        # Without bars where a question is asked: they would be drawn over it.
        session = Session.open(migration)
        if yes:
            with output.progress() as listener:
                session = Session.open(migration, listener)
                report = upgraded(session, of, to=to, assumed=assumed, fresh=fresh, agree=agree)
        else:
            report = upgraded(session, of, to=to, assumed=assumed, fresh=fresh, agree=agree)
    if json:
        output.print_json({"migration": migration.name, **report.to_dict()})
    else:
        _print(report)


def _print(report: UpgradeReport) -> None:
    if not report.steps:
        told = report.marker is not None and versions.says(report.marker, report.to)
        marked = "" if told else f" It {'would say' if report.dry_run else 'says'} so from now on."
        output.say(f"{report.place} is of version {report.to}: there is nothing to upgrade.{marked}")
        return
    if report.dry_run:
        _print_steps(report)
        output.say("Dry run: nothing was written.")
        return
    found: dict[str, object] = {f"{kind}s proven unchanged": count for kind, count in report.records.items()}
    for step in report.steps:
        found |= {f"{step.version} → {step.to}": _told(step.changes) + (" (before)" if step.resumed else "")}
    found |= {"Backup": report.backup_id, "Seconds": f"{report.seconds:.1f}"}
    output.rows(f"Upgraded {report.place} from {report.version} to {report.to}", found)
    if any(step.to == _NEW_KEYS for step in report.steps):
        output.say(
            f"Configuration files have other keys from {_NEW_KEYS} on: agui-migrate upgrade-config FILE shows them."
        )


def _print_steps(report: UpgradeReport) -> None:
    said = f"says {report.marker}" if report.marker is not None else "says nothing, and is told by its documents"
    records = ", ".join(f"{count:,} {kind}s" for kind, count in report.records.items()) or "no records"
    output.say(f"{report.place}: {records}. It {said}: version {report.version}.")
    for step in report.steps:
        output.say(f"  {step.version} → {step.to}: {step.summary}: {_told(step.changes)}")


def _told(changes: dict[str, int]) -> str:
    done = ", ".join(f"{count:,} {what}" for what, count in changes.items() if count)
    return done or "nothing to change"
