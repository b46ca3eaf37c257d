"""Running a Dagster job in process, on the persisted instance, and taking its result from the ledger."""

# ruff: noqa: PLC0415 - Dagster and what imports it cost seconds, which --help and a wrong configuration need not pay

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agui_pipelines import spec
from agui_pipelines.cli import clock
from agui_pipelines.cli.home import CONFIG, dagster_home, open_instance, storage_told_of
from agui_pipelines.errors import MigrationError
from agui_pipelines.expectations import worker
from agui_pipelines.phases.timeline import Seconds
from agui_pipelines.progress import Listener
from agui_pipelines.staging.workspace import make_private

_SCRATCH: Final = ".dagster"
_LOCAL: Final = "telemetry: {enabled: false}\nstorage: {sqlite: {base_dir: storage}}\n"
"""Of an instance that writes nowhere but in its own folder, whatever that of the user is configured to do."""


@dataclasses.dataclass(frozen=True)
class RangesAlone:
    """Some key ranges that follow each other, to be moved without the others, and without a validation."""

    names: Sequence[str]
    planned: bool
    """Whether a plan is made for them."""


def execute(
    job: str,
    migration: spec.Migration,
    listener: Listener,
    *,
    run_id: str,
    file: str | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    sample: int = 0,
    seed: int | None = None,
    propose: bool = False,
    rehearse: bool = True,
    only: RangesAlone | None = None,
    debug: bool = False,
) -> None:
    """Run a job over all key ranges, or those of `only`, as the run `run_id`.

    Raises the phase's own `MigrationError`, or KeyboardInterrupt.
    """
    if file:
        os.environ[spec.FILE_VARIABLE] = file  # the partitions are those of this file
    worker.warm()  # every job runs expectation suites
    with _quiet(debug=debug):
        import dagster as dg
        import pandas as pd  # noqa: F401 - DuckDB does with its first batch, and it would count as a phase's time
        from dagster._core.errors import DagsterAssetCheckFailedError, DagsterExecutionInterruptedError

        from agui_pipelines import run_tags
        from agui_pipelines.automation.jobs import ranges_alone
        from agui_pipelines.definitions import defs, job_of
        from agui_pipelines.phases.expect import recorded_refusal
        from agui_pipelines.phases.session import Session
        from agui_pipelines.resources import MigrationRun
        from assets.partitions import KEY_RANGES

        names = only.names if only else KEY_RANGES.get_partition_keys()
        run = MigrationRun(
            migration,
            dry_run=dry_run,
            fresh=fresh,
            sample=sample,
            seed=seed,
            propose=propose,
            rehearse=rehearse,
            listener=listener,
        )
        tags = {
            "dagster/asset_partition_range_start": names[0],
            "dagster/asset_partition_range_end": names[-1],
            **run_tags.tags(migration.name, run_id),
        }
        home = dagster_home(migration.workspace_url)
        if propose and rehearse:
            run = dataclasses.replace(run, start_up=_around_steps(home))
        with storage_told_of(home), open_instance(home) as instance:
            run_tags.conclude_dead_runs(instance, migration.name)
            try:
                chosen = job_of(run, ranges_alone(planned=only.planned)) if only else defs.resolve_job_def(job)
                chosen.execute_in_process(
                    run_id=run_id,
                    instance=instance,
                    resources=None if only else {"migration": run},
                    run_config={"loggers": {"console": {"config": {"log_level": "DEBUG" if debug else "CRITICAL"}}}},
                    tags=tags,
                )
            except dg.Failure as failure:
                if isinstance(failure.__cause__, MigrationError):
                    raise failure.__cause__ from failure
                raise
            except DagsterAssetCheckFailedError as failure:
                raise recorded_refusal(Session.open(run.migration)) from failure
            except DagsterExecutionInterruptedError:
                # Dagster puts its own in place of our signal handlers while a step runs.
                raise KeyboardInterrupt from None


def _around_steps(home: Path) -> Seconds:
    """What a run takes besides its phases, on an instance of its own on the same disk, which is soon removed."""
    from agui_pipelines.automation.overhead import around_steps

    before = clock.elapsed()
    make_private(home / _SCRATCH)
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=home / _SCRATCH) as folder:
        (Path(folder) / CONFIG).write_text(_LOCAL, "utf-8")
        with open_instance(Path(folder)) as instance:
            return around_steps(instance, before)


@contextmanager
def _quiet(*, debug: bool) -> Iterator[None]:
    """Keep Dagster's log lines off the terminal: our own progress says it better, and the UI keeps them."""
    if debug:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)
