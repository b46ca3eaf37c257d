"""The Dagster UI and its daemon over a migration, operated as the pages in a browser do: through GraphQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from agui_pipelines.embedded import guardian
from agui_pipelines.embedded.process import free_port

CHECKOUT: Final = Path(__file__).resolve().parents[2]
COMMAND: Final = Path(sys.executable).with_name("agui-migrate")
ENDED: Final = ("SUCCESS", "FAILURE", "CANCELED")
FIRST, LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
"""Tags by which a run is one of some key ranges."""
PATIENCE: Final = 300.0
"""Seconds that anything is awaited: on an idle machine a run takes 15, but it starts a process that imports everything."""
STOPPED_IN: Final = 60.0
"""Seconds that Dagster is given to end its five processes."""

REPOSITORY = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
LAUNCHPAD = """query ($job: PipelineSelector!) { runConfigSchemaOrError(selector: $job) {
    ... on RunConfigSchema { rootDefaultYaml } } }"""
LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } } } }"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
RUNS = """query ($filter: RunsFilter!) { runsOrError(filter: $filter) {
    ... on Runs { results { runId jobName status } } } }"""
FAILURES = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection(limit: 1000) { events {
    ... on ExecutionStepFailureEvent { stepKey error { message } } ... on RunFailureEvent { message } } } } } }"""
BACKFILL = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILLED = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status runs(limit: 100) { runId status tags { key value } } } } }"""
TICK = """mutation ($schedule: ScheduleSelector!, $at: Float) {
    scheduleDryRun(selectorData: $schedule, timestamp: $at) {
        __typename ... on PythonError { message }
        ... on DryRunInstigationTick { evaluationResult {
            skipReason error { message } runRequests { runConfigYaml tags { key value } } } } } }"""
SWITCH_ON = """mutation ($schedule: ScheduleSelector!) { startSchedule(scheduleSelector: $schedule) {
    __typename ... on PythonError { message } } }"""
TICKS = """query ($schedule: ScheduleSelector!) { scheduleOrError(scheduleSelector: $schedule) {
    ... on Schedule { scheduleState { ticks(limit: 100) { status skipReason runIds } } } } }"""

Found = TypeVar("Found")


def awaited(what: Callable[[], Found], seconds: float = PATIENCE) -> Found:
    """The first true value of a function. A test's own timeout has to be longer, or nobody is told what never came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what.__qualname__} was never true in {seconds:g} s")


class Ui:
    """What a person does in the UI."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)
        assert "errors" not in said, said["errors"]
        data: dict[str, Any] = said["data"]
        return data

    def repository(self) -> dict[str, str] | None:
        """By which everything is named; None as long as the UI does not answer, or has not loaded the definitions."""
        try:
            nodes = self.ask(REPOSITORY)["repositoriesOrError"].get("nodes")
        except (urllib.error.URLError, ConnectionError):
            return None
        return (
            {"repositoryName": nodes[0]["name"], "repositoryLocationName": nodes[0]["location"]["name"]}
            if nodes
            else None
        )

    def launch(
        self, job: str, ranges: tuple[str, str] | None = None, config: str | dict[str, Any] | None = None, **tags: str
    ) -> str:
        """The run of a job, with the launchpad's configuration as it opens unless another one is given."""
        if ranges is not None:
            tags |= dict(zip((FIRST, LAST), ranges, strict=True))
        params = {
            "selector": self._of(jobName=job),
            "runConfigData": self.launchpad(job) if config is None else config,
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.ask(LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def launchpad(self, job: str) -> str:
        """The configuration with which the launchpad of a job opens."""
        return str(self.ask(LAUNCHPAD, job=self._of(pipelineName=job))["runConfigSchemaOrError"]["rootDefaultYaml"])

    def runs(self, **filter_: Any) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.ask(RUNS, filter=filter_)["runsOrError"]["results"]
        return found

    def status(self, run_id: str) -> str:
        return self.runs(runIds=[run_id])[0]["status"]

    def terminate(self, run_id: str) -> None:
        self.ask(TERMINATE, id=run_id)

    def ended(self, run_id: str, seconds: float = PATIENCE) -> str:
        """How a run ended."""
        return awaited(lambda: status if (status := self.status(run_id)) in ENDED else None, seconds)

    def succeeded(self, run_id: str, seconds: float = PATIENCE) -> None:
        """Returns as soon as a run has succeeded; says what failed otherwise."""
        if (status := self.ended(run_id, seconds)) != "SUCCESS":
            raise AssertionError(f"{status}: {self.failures(run_id)}")

    def failures(self, run_id: str) -> list[dict[str, Any]]:
        """What of a run has failed."""
        events = self.ask(FAILURES, id=run_id)["runOrError"]["eventConnection"]["events"]
        return [event for event in events if event]

    def backfill(self, assets: Sequence[str], ranges: Sequence[str]) -> str:
        """Some assets of some key ranges, of which each row of neighbours is a run."""
        params = {"assetSelection": [{"path": [name]} for name in assets], "partitionNames": list(ranges)}
        launched = self.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def backfilled(self, backfill: str, seconds: float = PATIENCE) -> set[tuple[str, str]]:
        """The first and last range of each run of a backfill, as soon as all of it has succeeded."""

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.ask(BACKFILLED, id=backfill)["partitionBackfillOrError"]
            return None if found["status"] in ("REQUESTED", "COMPLETING") else found

        found = awaited(ended, seconds)
        if found["status"] != "COMPLETED_SUCCESS":
            raise AssertionError({run["runId"]: self.failures(run["runId"]) for run in found["runs"]})
        tags = [{tag["key"]: tag["value"] for tag in run["tags"]} for run in found["runs"]]
        return {(of_run[FIRST], of_run[LAST]) for of_run in tags}

    def tick(self, schedule: str) -> dict[str, Any]:
        """What a schedule says when it is tested: a reason to skip, or the runs it asks for."""
        said = self.ask(TICK, schedule=self._of(scheduleName=schedule), at=time.time())["scheduleDryRun"]
        assert said["__typename"] == "DryRunInstigationTick", said
        result: dict[str, Any] = said["evaluationResult"]
        assert result["error"] is None, result["error"]
        return result

    def switch_on(self, schedule: str) -> None:
        said = self.ask(SWITCH_ON, schedule=self._of(scheduleName=schedule))["startSchedule"]
        assert said["__typename"] == "ScheduleStateResult", said

    def ticks(self, schedule: str) -> list[dict[str, Any]]:
        """The ticks that the daemon has made, newest first."""
        found = self.ask(TICKS, schedule=self._of(scheduleName=schedule))["scheduleOrError"]
        ticks: list[dict[str, Any]] = found["scheduleState"]["ticks"]
        return ticks

    def _of(self, **what: str) -> dict[str, str]:
        repository = self.repository()
        assert repository is not None
        return {**repository, **what}


@contextmanager
def operated(file: Path, home: Path) -> Iterator[Ui]:
    """`agui-migrate ui` over a migration, in a Dagster home with the project's own configuration.

    It is kept by a guardian, so that it ends with this process, however that ends.
    """
    home.mkdir(exist_ok=True)
    shutil.copyfile(CHECKOUT / "dagster.yaml", home / "dagster.yaml")
    port = free_port()
    options = {"parent": os.getpid(), "stop-signal": int(signal.SIGTERM), "grace": STOPPED_IN}
    options["command"] = json.dumps([*map(str, (COMMAND, "ui", file, "--port", port))])
    log = home / "ui.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, *(f"--{name}={value}" for name, value in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=home,
            env={**os.environ, "DAGSTER_HOME": str(home)},
            start_new_session=True,
        )
    ui = Ui(port)
    try:
        awaited(lambda: process.poll() is not None or ui.repository())
        assert process.poll() is None, log.read_text()
        yield ui
    except BaseException:
        sys.stdout.write(log.read_text())
        raise
    finally:
        process.communicate(timeout=STOPPED_IN + 10)  # whose end of input tells the guardian to stop
