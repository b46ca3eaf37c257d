"""Run one migration in a process of its own and print what came of it and the peak of its resident memory, in MiB.

python peak.py '<migration as JSON>' <folder>
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from agui_pipelines import spec
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import validate


def peak_mib() -> float:
    """Linux hands ``ru_maxrss`` on from the process that started this one; VmHWM is our own."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 2**10


def main(text: str, folder: str) -> None:
    session = Session.open(spec.parse(json.loads(text), folder=Path(folder)))
    made = plan(session)
    names = [key_range.name for key_range in made.ranges]
    export(session, made, names)
    transform(session, made, names)
    import_(session, made, names)
    report = validate(session, made)
    print(  # noqa: T201 - this is what it is for
        json.dumps(
            {
                "passed": report.passed,
                "migrated": {kind: found.migrated for kind, found in report.kinds.items()},
                "peak_mib": peak_mib(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
