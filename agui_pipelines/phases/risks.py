"""Risks: what can go wrong with a planned migration, each with what is done, or to be done, about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from agui_pipelines.phases.rehearse import Rehearsal
from agui_pipelines.spec import Migration, StrategyType


class Risk(NamedTuple):
    """Both are sentences for people."""

    risk: str
    mitigation: str


def risks(
    migration: Migration,
    strategy: StrategyType,
    rehearsal: Rehearsal,
    loss_ledger: Sequence[Mapping[str, Any]],
    held: int,
    written: float | None = None,
) -> list[dict[str, str]]:
    """`loss_ledger`: that of the plan's document; `held`: how many records the target holds already; `written`: states that
    it took in a second of the rehearsal, besides what it took to begin.
    """
    found = [*_of_writers(strategy), *_of_losses(loss_ledger), *_of_target(migration, held), *_of_timeline(rehearsal)]
    found += _of_throughput(migration.requirements.min_throughput, written)
    found.append(
        Risk(
            "The process, its machine or a server goes down during the run.",
            "The same command resumes; of each key range that was being written, one batch at most is written again.",
        )
    )
    return [risk._asdict() for risk in found]


def _of_writers(strategy: StrategyType) -> Iterator[Risk]:
    yield Risk(
        "Writes that reach the source after they were exported are not in the target.",
        "Stop the writers before the run. Running it again moves what differs, and proves all of it.",
    )
    if strategy != "big_bang":
        yield Risk(
            f"No phase of this version carries out a {strategy.replace('_', '-')} migration by itself.",
            "Run it while the writers go on, stop them, and run it again: the second run writes only what differs.",
        )


def _of_losses(loss_ledger: Sequence[Mapping[str, Any]]) -> Iterator[Risk]:
    refused = [row["property"] for row in loss_ledger if row["accepted"] is False and row["present_in_sample"]]
    if refused:
        names = ", ".join(refused)
        yield Risk(
            f"The target has no place for what the sample has ({names}): the import would be refused.",
            f"Accept the loss in the migration file (accept_losses: [{names}]), or keep what can be kept.",
        )


def _of_target(migration: Migration, held: int) -> Iterator[Risk]:
    before = migration.backup.before_import
    undone = "They are backed up before, and `agui-migrate rollback` puts them back."
    advice = "Set backup.before_import to true: without it, nothing that is overwritten can be put back."
    if held:
        yield Risk(
            f"The target holds {held:,} records already; those with ids of the source are overwritten.",
            undone if before else advice,
        )
    elif not before:
        yield Risk("Nothing of the target is backed up (backup.before_import is false).", advice)
    if migration.on_failure == "keep":
        yield Risk(
            "An import that fails leaves the target half written (on_failure: keep).",
            "Run again to resume, or take it back with `agui-migrate rollback`.",
        )


def _of_throughput(required: float | None, written: float | None) -> Iterator[Risk]:
    """Only writing is measured: it is what a rehearsal has the target do as an application does it, if in larger batches."""
    if required is not None and written is not None and written < required:
        yield Risk(
            f"The target took {written:,.0f} states a second in the rehearsal, and {required:,.0f} are required "
            "(requirements.min_throughput).",
            "Choose a faster target, or see what slows this one: its disks, its settings, the network, other load.",
        )


def _of_timeline(rehearsal: Rehearsal) -> Iterator[Risk]:
    if rehearsal.rounds:
        yield Risk(
            "The timeline is that of one hour: other load on the servers, or on this machine, makes a run slower.",
            "Go by the upper end of the range, and plan at the time of day at which you want to run.",
        )
    else:
        yield Risk(
            "There is no measured timeline.",
            "Plan again with a rehearsal, if need be on a copy, or with the privilege that it lacked.",
        )
    if rehearsal.left:
        yield Risk(rehearsal.left, "Remove it by hand if no other rehearsal is to follow.")
