"""``assess``: what a source holds, how it is used, and whether it can be moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer

from agui_pipelines import spec
from agui_pipelines.cli import output
from agui_pipelines.phases.preflight import look
from agui_pipelines.phases.session import Session
from agui_pipelines.units import amount

_REFUSED: Final = 3
_NAMED: Final = 5
_MARKS: Final = {"pass": "pass ", "warn": "WARN ", "block": "BLOCK"}


def assess(migration: spec.Migration, *, sample: int | None, json: bool) -> None:
    """Print the report. Raises `typer.Exit` with 3 if a check blocks."""
    with output.progress() as listener:
        found = look(Session.open(migration, listener), sample=sample)
    values = {"migration": migration.name, **found.public}
    if json:
        output.print_json(values)
    else:
        _print(values)
    if values["verdict"] == "block":
        raise typer.Exit(_REFUSED)


def _print(values: dict[str, Any]) -> None:
    _rows(f"Source {values['source']}", _facts(values))
    _print_use(values)
    _print_sample(values)
    if values["unmeasured"]:
        output.say("\nNot measured")
        for what, why in values["unmeasured"].items():
            output.say(f"  {what}: {why}")
    output.say(f"\nInto {values['target']}")
    for check in values["checks"]:
        output.say(f"  {_MARKS[check['verdict']]} {check['name']}: {check['reason']}")
        if check["verdict"] != "pass":
            if check["ids"]:
                more = check["count"] - _NAMED
                ids = ", ".join(check["ids"][:_NAMED])
                output.say(f"        {ids}{f' and {more:,} more' if more > 0 else ''}")
            output.say(f"        {check['remedy']}")
    cost = values["cost"]
    output.say(
        f"\nCost of this: {cost['commands']:,} commands or files, {cost['records']:,} states read "
        f"({amount(cost['bytes_read'])}), {cost['seconds']:.1f} s"
    )


def _facts(values: dict[str, Any]) -> dict[str, str]:
    def count(name: str) -> str:
        number = values[name]
        return "" if number is None else f"{'about ' if name in values['estimated'] else ''}{number:,}"

    sizes = values["sizes"]
    facts = {
        "System": f"{values['system']} {values['version']}".strip(),
        "States": count("states"),
        "Versions": count("versions") if values["versions"] else "",
        "Snapshots": count("snapshots") if values["snapshots"] else "",
        "Documents": "" if values["document_bytes"] is None else amount(values["document_bytes"]),
        "Takes there": ""
        if values["stored_bytes"] is None
        else f"{amount(values['stored_bytes'])}, {values['stored_bytes_of']}",
    }
    if sizes["count"]:
        percentiles = ", ".join(f"{name} {amount(sizes[name])}" for name in ("average", "p50", "p95", "p99", "maximum"))
        facts[f"Size of a state ({values['sizes_of']})"] = percentiles
        facts["Largest"] = ", ".join(f"{each['id']} ({amount(each['bytes'])})" for each in sizes["largest"][:_NAMED])
    for kind, lengths in values["histories"].items():
        if lengths["maximum"]:
            facts[f"{kind.capitalize()} of a state"] = ", ".join(
                f"{name} {amount:g}" for name, amount in lengths.items()
            )
    return facts | {name[0].upper() + name[1:]: told for name, told in values["details"].items()}


def _print_use(values: dict[str, Any]) -> None:
    use = values["usage"]
    told: dict[str, object] = {}
    for title, reads, writes, seconds in (
        ("While it was watched", "reads", "writes", "watched_seconds"),
        ("Since it has been counting", "reads_since", "writes_since", "counted_seconds"),
    ):
        if use[reads] is not None and use[writes] is not None:
            told[title] = (
                f"{use[reads]:,.1f} reads and {use[writes]:,.1f} writes per second, over {use[seconds]:,.0f} s"
            )
    if use["read_share"] is not None:
        told["Reads among both"] = f"{use['read_share']:.0%}"
    if told:
        _rows(f"\nUse ({use['of']})", told)


def _print_sample(values: dict[str, Any]) -> None:
    sample = values["sample"]
    findings = {
        name.replace("_", " "): f"{found['count']:,} ({', '.join(found['ids'][:_NAMED])})"
        for name, found in sample["findings"].items()
    }
    told = {
        "Prefixes of ids": _counts(sample["prefixes"]),
        "Values": _counts(sample["kinds_of_value"]),
        "Not JSON objects": f"{sample['not_json']:,} ({sample['not_json_share']:.1%})" if sample["not_json"] else "",
        "Types in documents": _counts(sample["types"]),
        "Encodings": _counts(sample["encodings"]),
        "Levels of nesting": _counts(sample["depths"]),
        "Expire in": _counts(sample["expiries"]),
        "Updated": _counts(sample["updated"]),
        "Compressed": "" if sample["compressed_share"] is None else f"{sample['compressed_share']:.0%} of their size",
        **findings,
    }
    states = sample["records"].get("state", 0)
    if states:
        _rows(f"\nSample of {states:,} states", told)


def _rows(title: str, values: Mapping[str, object]) -> None:
    """What there is to tell, a line each: lists of ids and counts are longer than a terminal is wide."""
    told = {name: value for name, value in values.items() if value}
    width = max(map(len, told), default=0)
    output.say(title)
    for name, value in told.items():
        output.say(f"  {name:<{width}}  {f'{value:,}' if isinstance(value, int) else value}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())
