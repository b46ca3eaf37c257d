"""Great Expectations suites (JSON, editable) and what runs them, over a snapshot's small columns, never its documents."""

from agui_pipelines.expectations.frames import state_frame
from agui_pipelines.expectations.runner import Expectation, SuiteReport, run_suite

__all__ = ["Expectation", "SuiteReport", "run_suite", "state_frame"]
