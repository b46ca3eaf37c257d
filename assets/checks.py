"""Great Expectations suites as asset checks, and what else is checked: what fails for sure stops what is downstream in the run.

Each stage has one step, which checks all of it. A suite is a check: the shipped one under the stage's name, one's own under
its file's. Dagster wants to know the checks when the code location is loaded, so the suites are those of the default migration
file; what a run's own file names besides is looked at all the same, within the check of the shipped suite.

The checks of what was loaded are made within the validation, which reads the target; see `validation_report`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import dagster as dg

from agui_pipelines import spec
from agui_pipelines.expectations.runner import SuiteReport
from agui_pipelines.expectations.suites import Stage
from agui_pipelines.phases.admission import set_aside
from agui_pipelines.phases.expect import PHASES, expect_exported, expect_staged
from agui_pipelines.phases.transform import staged_ranges
from agui_pipelines.resources import MigrationRun
from assets import outcomes
from assets.declared import declared
from assets.export import exported_snapshot
from assets.transform import staged_snapshot

_SHIPPED: Final = {
    Stage.EXPORTED: "The suite `exported`: ids unique and not null, documents valid JSON and of sensible size.",
    Stage.STAGED: "The suite `staged`: the same of what the transforms made of it, before anything is written.",
    Stage.LOADED: "The suite `loaded`: all that was staged was compared, nothing is missing, digests are equal.",
}
_BESIDES: Final = {
    Stage.EXPORTED: {},
    Stage.STAGED: {
        outcomes.REJECTS_WITHIN_LIMIT: "Not more records were rejected in export and transform than `limits.max_rejects` "
        "allows; otherwise their ids, and nothing is imported.",
    },
    Stage.LOADED: {
        outcomes.COMPLETENESS: "Everything that was staged is in the target. What else it holds, or holds unreadable, is told.",
        outcomes.DIGEST_EQUALITY: "Every document is, by exact digest, what was staged; so are the times that are kept.",
        outcomes.HISTORY_INTEGRITY: "Versions and snapshots name versions that are there, where they did in the source.",
        outcomes.PERFORMANCE: "What was measured meets the migration file's `requirements`. What is missed only warns.",
    },
}
_WARNING: Final = (outcomes.PERFORMANCE,)
"""Checks that never block."""


def specs(stage: Stage, asset: str, own: Iterable[str] = ()) -> list[dg.AssetCheckSpec]:
    """The checks of a stage; `own`: paths of suites besides the shipped one, as the migration file has them."""
    described = {str(stage): _SHIPPED[stage]}
    for path in own:
        described.setdefault(check_name(path), f"The migration file's own suite `{Path(path).name}`.")
    described |= _BESIDES[stage]  # a suite of such a name is looked at with the shipped one
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=name not in _WARNING, description=description)
        for name, description in described.items()
    ]


def check_name(path: str) -> str:
    """What the check of a suite is called: its file's stem, in characters that Dagster takes."""
    return re.sub(r"[^A-Za-z0-9_]", "_", Path(path).stem)


def by_check(
    stage: Stage, asked: spec.Expectations, reports: Sequence[SuiteReport], known: Iterable[dg.AssetCheckSpec]
) -> Mapping[str, Sequence[SuiteReport]]:
    """Which reports each suite's check tells: those of suites without a check of their own go with the shipped one."""
    paths: Sequence[str] = getattr(asked, stage) if reports else ()
    told = [str(stage)] * (len(reports) - len(paths))  # the shipped suite comes first, unless one's own takes its place
    told += map(check_name, paths)
    found: dict[str, list[SuiteReport]] = {each.name: [] for each in known if each.name not in _BESIDES[stage]}
    for name, report in zip(told, reports, strict=True):
        found[name if name in found else str(stage)].append(report)
    return found


def exported_checks(own: Iterable[str]) -> dg.AssetChecksDefinition:
    """The step that holds what was exported to its suites."""
    known = specs(Stage.EXPORTED, exported_snapshot.key.to_user_string(), own)

    @dg.multi_asset_check(name=PHASES[Stage.EXPORTED], specs=known)
    def checks(
        context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[MigrationRun]
    ) -> Iterator[dg.AssetCheckResult]:
        with migration.planned(context) as (session, plan):
            reports = expect_exported(session, plan)
            yield from outcomes.of_suites(by_check(Stage.EXPORTED, session.migration.expectations, reports, known))

    return checks


def staged_checks(own: Iterable[str]) -> dg.AssetChecksDefinition:
    """The step that holds what is about to be written to its suites, and counts what was rejected on the way."""
    known = specs(Stage.STAGED, staged_snapshot.key.to_user_string(), own)

    @dg.multi_asset_check(name=PHASES[Stage.STAGED], specs=known)
    def checks(
        context: dg.AssetCheckExecutionContext, migration: dg.ResourceParam[MigrationRun]
    ) -> Iterator[dg.AssetCheckResult]:
        with migration.planned(context) as (session, plan):
            reports = expect_staged(session, plan)
            rejected = set_aside(session, staged_ranges(session, plan).values())
            yield outcomes.of_rejects(rejected)
            yield from outcomes.of_suites(by_check(Stage.STAGED, session.migration.expectations, reports, known))
            if all(report.passed for report in reports):  # those stop the run by themselves, and are told first
                rejected.require_within_limit()  # the import's own refusal, in its words

    return checks


OWN: Final[spec.Expectations] = declared("expectations")
EXPORTED: Final = exported_checks(OWN.exported)
STAGED: Final = staged_checks(OWN.staged)
LOADED: Final = specs(Stage.LOADED, "validation_report", OWN.loaded)
