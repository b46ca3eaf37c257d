"""The document of a plan, and what a route keeps, as Markdown, from their plain values alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agui_pipelines.losses import FORM, MEANING
from agui_pipelines.phases.timeline import BETWEEN, START_UP, TOTAL
from agui_pipelines.units import amount, duration

TITLES: Final = {
    START_UP: "start-up, and around the steps",
    "plan": "plan (list the keys)",
    "export": "export",
    "expect_exported": "expectations of what was exported",
    "transform": "transform",
    "expect_staged": "expectations of what was staged",
    "backup": "backup",
    "import": "import",
    "validate": "validate",
    "expect_loaded": "expectations of what was loaded",
    "replay": "replay of histories",
    BETWEEN: "between the phases",
    TOTAL: "**the whole run**",
}
STRATEGIES: Final = {"big_bang": "big bang", "rolling": "rolling", "blue_green": "blue-green"}

_PIPE: Final = re.compile(r"(\\*)\|")


def markdown(values: Mapping[str, Any]) -> str:
    """Everything that the JSON says, for people."""
    source, target, volume = values["source"], values["target"], values["volume"]
    size = "size unknown" if volume["bytes"] is None else amount(volume["bytes"])
    blocks = [
        f"# Migration plan {values['plan_id']}",
        f"Migration `{values['migration']}`, planned {values['made_at']}.",
        table(
            ("", ""),
            [
                ("from", f"{_code(source['place'])}, {source['server']}"),
                ("to", f"{_code(target['place'])}, {target['server']}"),
                ("keys", f"{volume['keys']:,} ({size})"),
                ("records in the target already", f"{target['records_already_there']:,}"),
            ],
        ),
        "## Strategy",
        *_strategy(values["strategy"]),
        "## Timeline",
        *_timeline(values["timeline"]),
        "## Resources",
        table(("", ""), _resources(values["resources"])),
        "## Risks",
        "\n".join(f"- {row['risk']} *{row['mitigation']}*" for row in values["risks"]),
        "## What this route keeps",
        table(("property", "verdict", "accepted", "in the sample"), map(_loss, values["loss_ledger"])),
    ]
    return "\n\n".join(blocks) + "\n"


def _strategy(values: Mapping[str, Any]) -> list[str]:
    asked = values["asked"]
    told = f"Recommended: **{STRATEGIES[values['recommended']]}**."
    if asked and asked != values["recommended"]:
        told += f" The migration file asks for {STRATEGIES[asked]}."
    window = values["maintenance_window"]
    if window["measured"]:
        seconds = window["seconds"]
        said = f"Maintenance window: **{duration(seconds['low'])} to {duration(seconds['high'])}**"
        if window["undoing_seconds"]:
            said += f", and {duration(window['undoing_seconds']['high'])} to put the target back if that is necessary"
    else:
        said = "Maintenance window: not known"
    return [told, "\n".join(f"- {reason}" for reason in values["reasons"]), f"{said} ({window['meaning']})."]


def _timeline(values: Mapping[str, Any]) -> list[str]:
    if not values["measured"]:
        return [f"Not measured. {values['why_not']}"]
    rows = [(TITLES.get(name, name), *_span(seconds)) for name, seconds in values["phases"].items()]
    rows.append((TITLES[TOTAL], *_span(values[TOTAL])))
    keys = ", ".join(f"{each['keys']:,}" for each in values["rehearsal"]["rounds"])
    return [
        table(("phase", "seconds from", "to", "expected"), rows),
        f"Measured by moving samples of {keys} keys through the whole pipeline into a scratch place beside the target.",
    ]


def _span(seconds: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{seconds['low']:,.1f}", f"{seconds['high']:,.1f}", f"{seconds['expected']:,.1f}"


def _resources(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    def size(name: str) -> str:
        return "not known" if values[name] is None else f"about {amount(values[name])}"

    return [
        (
            "workspace",
            f"{size('workspace_bytes')} in {_code(values['workspace'])}, and as much in backups as is overwritten",
        ),
        ("target", f"{size('target_bytes')} more"),
        (
            "memory",
            "not known" if values["memory_bytes"] is None else f"{amount(values['memory_bytes'])} in the rehearsal",
        ),
        ("connections to the source", f"{values['source_connections']}"),
        ("connections to the target", f"{values['target_connections']}"),
        ("key ranges", f"{values['ranges']}, {values['parallelism']} at a time, batches of {values['batch_size']:,}"),
    ]


def _loss(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    what = {**MEANING, **FORM}[row["property"]]
    accepted = {None: "", True: "yes", False: "**no**"}[row["accepted"]]
    present = "" if row["present_in_sample"] is None else f"{row['present_in_sample']:,}"
    return (
        f"{row['property']}: {what}" if row["verdict"] != "kept" else row["property"],
        row["verdict"],
        accepted,
        present,
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown. Whatever a cell holds, it stays one."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(lines)


def losses(ledger: Iterable[Mapping[str, Any]]) -> str:
    """A loss ledger (see `losses.table`), of what was staged, for people."""
    counts, what = ("present", "kept", "encoded", "lost"), {**MEANING, **FORM}
    rows = [
        (
            f"{row['property']}: {what[row['property']]}" if row["verdict"] != "kept" else row["property"],
            row["carries"],
            row["verdict"],
            *(f"{row[name]:,}" for name in counts),
            {None: "", True: "yes", False: "**no**"}[row["accepted"]],
            ", ".join(map(_code, row["examples"])),
        )
        for row in ledger
    ]
    return table(("property", "carries", "verdict", *counts, "accepted", "for example"), rows)


def _cell(text: str) -> str:
    # A backslash before the pipe would escape ours, and leave the pipe to end the cell.
    return " ".join(_PIPE.sub(r"\1\1\\|", text).splitlines())


def _code(text: str) -> str:
    """As it is, whatever characters it has: a place may be named as users name things."""
    return f"`{text.replace('`', chr(39))}`"
