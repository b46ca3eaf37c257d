"""The way back of a migration: the same one with its ends swapped and its transforms turned round.

A transform has an inverse where nothing that it does depends on what is lost: prefixes, `percent_encode`, `rename_ids` by a
template alone, `rename_fields` within an object or up to the top. `reverse_transforms` of the migration file takes the place of
all of them. Whether the inverse holds for the documents that there are is proven by `require_exact`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any, Final

from agui_pipelines import losses
from agui_pipelines.errors import RefusedError, named
from agui_pipelines.phases.comparison import Comparison
from agui_pipelines.phases.plan import Plan
from agui_pipelines.phases.session import Session
from agui_pipelines.phases.transform import staged_ranges, trial
from agui_pipelines.ports import BATCH_BYTES
from agui_pipelines.records import Kind, Reject
from agui_pipelines.sources import no_way_back
from agui_pipelines.spec import Expectations, ForeignConfig, Migration
from agui_pipelines.staging import SnapshotReader
from agui_pipelines.transforms.field_paths import parse

SUFFIX: Final = "-back"
"""Of the name, and so of the workspace, of a migration's way back."""

Step = str | dict[str, Any]

_ONCE: Final = "Cut over without a way back: --no-way-back, or no_way_back of the job."


def reverse(migration: Migration) -> Migration:
    """The migration that brings back what is written to the target. Raises `RefusedError` if there is none."""
    reason = no_way_back(migration.source) if isinstance(migration.source, ForeignConfig) else ""
    if reason:
        raise RefusedError(
            f"There is no way back to a source of the type {migration.source.type}: {reason}.",
            why="What applications write to the target after the switch could not be brought back to it.",
            remedy=_ONCE,
        )
    if migration.restore_kept and migration.reverse_transforms is None:
        raise RefusedError(
            "There is no way back: the migration takes out of the documents what they carried (restore_kept).",
            why="What was in them cannot be put there again exactly.",
            remedy=f"Say how in reverse_transforms of the migration file. Or: {_ONCE}",
        )
    transforms = inverse(migration.transforms) if migration.reverse_transforms is None else migration.reverse_transforms
    name = f"{migration.name}{SUFFIX}"
    changes: dict[str, Any] = {
        "name": name,
        "source": migration.target,
        "target": migration.source,
        "transforms": transforms,
        "reverse_transforms": None,
        "keep": (),
        "restore_kept": bool(migration.keep),
        "history_limit": None,
        "expectations": Expectations(),
        "maintenance_window": None,
        # Who returns is in a hurry: what the old side has no place for is told before the cutover, and does not keep him off.
        "accept_losses": tuple(losses.MEANING),
    }
    text = {
        **{key: value for key, value in migration.text.items() if key not in changes},
        "name": name,
        "source": migration.text.get("target"),
        "target": migration.text.get("source"),
        "transforms": list(transforms),
        "restore_kept": bool(migration.keep),
    }
    return migration.derived(changes, text)


def inverse(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The inverse of some transforms, the last one first. Raises `RefusedError` if one has none."""
    found: list[Step] = []
    for step in reversed(steps):
        name, options = (step, None) if isinstance(step, str) else next(iter(step.items()))
        turned = _INVERSE.get(name, _none)(options)
        if turned is None:
            raise RefusedError(
                f"There is no way back: the transform '{name}' has no inverse of its own, as it is used here.",
                why="What applications write to the target after the switch could not be brought back to the source.",
                remedy=f"Say in reverse_transforms of the migration file what turns the records round. Or: {_ONCE}",
            )
        found.append(turned)
    return tuple(found)


def _none(options: Any) -> Step | None:  # noqa: ARG001 - all inverses are asked alike
    return None


def _of_ids(options: Any) -> Step | None:
    """Of ``rename_ids`` by a template that names the whole id once; patterns may leave out what nobody knows again."""
    given = {"template": options} if isinstance(options, str) else options
    if not isinstance(given, Mapping) or set(given) != {"template"}:
        return None
    parts = list(Formatter().parse(given["template"]))
    if [name for _, name, _, _ in parts if name is not None] != ["id"]:
        return None
    at = next(i for i, (_, name, _, _) in enumerate(parts) if name is not None)
    before = "".join(text for text, *_ in parts[: at + 1])
    after = "".join(text for text, *_ in parts[at + 1 :])
    pattern = f"{re.escape(before)}(?P<was>.*){re.escape(after)}"
    return {"rename_ids": {"pattern": f"(?s){pattern}", "template": "{was}"}}


def _of_fields(options: Any) -> Step | None:
    """Of ``rename_fields`` that neither make an object on the way nor leave one behind that was not there."""
    if not isinstance(options, Mapping):
        return None
    turned: dict[Any, Any] = {}
    for old, new in reversed(list(options.items())):
        was, is_ = parse(old), parse(new)
        if (was[:-1] != is_[:-1] and len(is_) > 1) or new in turned:
            return None
        turned[new] = old
    return {"rename_fields": turned}


def _percent(options: Any) -> Step:
    decodes = bool(options.get("decode")) if isinstance(options, Mapping) else False
    return {"percent_encode": {"decode": not decodes}}


_INVERSE: Final[Mapping[str, Callable[[Any], Step | None]]] = {
    "identity": lambda _: "identity",
    "strip_prefix": lambda options: {"add_prefix": options},
    "add_prefix": lambda options: {"strip_prefix": options},
    "percent_encode": _percent,
    "rename_ids": _of_ids,
    "rename_fields": _of_fields,
}


def require_exact(session: Session, back: Session, plan: Plan) -> None:
    """Turn round what was staged under a plan, and see that it is what was exported, by id and digest.

    Reads and writes nothing but the workspace. Raises `RefusedError` if a record would not come back as it was.
    """
    snapshots = list(staged_ranges(session, plan).values())
    if all(snapshot.manifest.transform == "identity" for snapshot in snapshots) and not back.migration.transforms:
        return
    rejects: list[Reject] = []
    meter = session.meter("way_back", total=sum(snapshot.manifest.records for snapshot in snapshots))
    with Comparison() as comparison, back.target() as source, comparison.observing() as take:
        tried = trial(back, source)
        for snapshot in snapshots:
            comparison.expect(SnapshotReader(session.workspace, parent) for parent in snapshot.manifest.parents)
            for segment in snapshot.manifest.segments:
                kind = Kind(segment.kind)
                for batch in snapshot.portions(segment, session.migration.batch_size, BATCH_BYTES):
                    session.require_going()
                    take(kind, tried(kind, batch, rejects.append)[0])
                    meter.add(batch.num_rows, batch.nbytes)
        comparison.join()
        found = {kind: comparison.result(kind) for kind in Kind}
    meter.finish()
    # What is missing was not staged, so that it stays in the source; what comes back under another id is one too many.
    wrong = [
        *(name for result in found.values() for name in (*result.corrupted.ids, *result.extra.ids)),
        *(reject.name for reject in rejects),
    ]
    if wrong:
        raise RefusedError(
            f"The way back does not bring back what was there: {named(sorted(set(wrong)))} would be others.",
            why="The inverses of the transforms, or reverse_transforms of the migration file, do not fit these records.",
            remedy=f"Mend reverse_transforms. Or: {_ONCE}",
        )


def session_back(session: Session) -> Session:
    """The session of a migration's way back, which has a workspace and a ledger of its own. Raises as `reverse`."""
    opened = Session.open(reverse(session.migration), session.listener, session.heartbeat, session.run_id)
    return replace(opened, stop=session.stop, steered_by=session.workspace)
