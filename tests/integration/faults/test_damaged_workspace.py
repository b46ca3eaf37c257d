"""What was staged is damaged before it is imported: nothing of it is written, and the error says what to do."""

from __future__ import annotations

import random

import pytest

from tests.cases import thinned
from tests.integration.faults.conftest import run
from tests.integration.faults.places import as_values, fill, held, made_up

CONTENT = made_up(random.Random(20250717), 60, history=False)
VALUES = as_values(CONTENT)


def flipped(content):
    """One bit of it is another."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def truncated(content):
    return content[: len(content) // 2]


DAMAGES = {
    "a bit of a segment": ("snapshots/staged-02-*/state-*.parquet", flipped, "is damaged: its checksum", True),
    "half a segment": ("snapshots/staged-02-*/state-*.parquet", truncated, "is damaged: its length", True),
    "half a manifest": ("snapshots/staged-02-*/manifest.json", truncated, "manifest", True),
    "half a ledger entry": ("ledger/*-transform-02.json", truncated, "ledger entry", False),
}


@pytest.mark.parametrize(("kind", "damage"), thinned(["file", "redis", "postgresql"], DAMAGES))
def test_damage_of_what_was_staged_is_told_before_anything_is_written(place, between, kind, damage):
    pattern, spoil, says, fresh_helps = DAMAGES[damage]
    source, target = place("redis_keys", "source"), place(kind, "target")
    fill(source, CONTENT)
    move = between(source, target)
    move.stage()
    [file] = move.workspace.glob(pattern)
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))

    told = run(move)

    assert told.code == 1
    assert says in told.error.message
    assert told.error.remedy
    assert held(target) == {}
    assert held(source) == VALUES
    if not fresh_helps:
        file.write_bytes(whole)
    again = run(move, fresh=fresh_helps)
    assert again.code == 0, again.error
    assert held(target) == VALUES


@pytest.mark.parametrize(
    "damage",
    [
        "a bit of a segment",
        pytest.param("half a manifest", marks=pytest.mark.long),
        pytest.param("half a ledger entry", marks=pytest.mark.long),
    ],
)
def test_the_command_ends_with_an_error_over_a_damaged_workspace(place, between, written, command, damage):
    pattern, spoil, says, _ = DAMAGES[damage]
    source, target = place("redis_keys", "source"), place("file", "target")
    fill(source, CONTENT)
    move = between(source, target)
    move.stage()
    [file] = move.workspace.glob(pattern)
    file.write_bytes(spoil(file.read_bytes()))

    said = command("run", written(move))

    assert said.code == 1
    assert says in said.error
    assert held(target) == {}
