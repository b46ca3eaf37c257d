"""A realistic legacy workload for the demo, the tests and the benchmarks: agent sessions as some application left them.

Deterministic for a seed. Most values are JSON objects as different writers spell them (compact, with spaces, with ASCII
escapes); some hold what careless migrations lose: integers above 2**53 and 2**64, long decimals, exponents, repeated keys,
unicode. A few are plain strings, and some keys have an expiry.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

PREFIX: Final = "session:"
_BATCH: Final = 1000
_ENGLISH: Final = (
    *("plan", "search", "result", "invoice", "flight", "order", "weather", "agent", "tool", "summary", "context"),
    *("customer", "ticket", "budget", "please", "because", "tomorrow", "answer", "question", "project"),
)
_OTHER: Final = ("München", "naïve", "東京", "привет", "😀", "café", "señal", "größer", "ありがとう", "مرحبا")
_TOOLS: Final = ("search", "calculator", "calendar", "code_interpreter", "retrieval")


@dataclass(frozen=True, slots=True)
class LegacyState:
    """One key of the legacy system; `ttl` in seconds, None for no expiry."""

    key: str
    value: str
    ttl: int | None


def legacy_states(count: int, *, seed: int = 7, text_bytes: int = 600) -> Iterator[LegacyState]:
    """`count` states of about `text_bytes` of text each, with sorted keys that begin with `PREFIX`."""
    rng = random.Random(seed)  # noqa: S311 - test data, not secrets
    for number in range(count):
        key = f"{PREFIX}{number:08d}-{uuid.UUID(int=rng.getrandbits(128), version=4)}"
        ttl = rng.randrange(3_600, 86_400) if number % 40 == 7 else None  # noqa: PLR2004 - one key in forty
        yield LegacyState(key, _value(rng, number, text_bytes), ttl)


def fill(client: redis.Redis, count: int, *, seed: int = 7, text_bytes: int = 600) -> int:
    """Write the workload to a Redis; returns the bytes of the values."""
    written = 0
    pipeline = client.pipeline(transaction=False)
    for number, state in enumerate(legacy_states(count, seed=seed, text_bytes=text_bytes), 1):
        pipeline.set(state.key, state.value, ex=state.ttl)
        written += len(state.value.encode())
        if number % _BATCH == 0:
            pipeline.execute()
    pipeline.execute()
    return written


def _value(rng: random.Random, number: int, text_bytes: int) -> str:
    if number % 200 == 13:  # noqa: PLR2004 - a few values are no JSON at all
        return rng.choice(["logged_out", "1719923412", "user:42|cart:7", "[1, 2, 3]"])
    session = _session(rng, number, text_bytes)
    if number % 100 == 50:  # noqa: PLR2004 - one in a hundred holds what double-precision parsers lose
        return _awkward(session)
    if number % 10 == 3:  # noqa: PLR2004 - one in ten was written by a program that escapes all but ASCII
        return json.dumps(session)
    if number % 3 == 1:
        return json.dumps(session, ensure_ascii=False)
    return json.dumps(session, ensure_ascii=False, separators=(",", ":"))


def _session(rng: random.Random, number: int, text_bytes: int) -> dict[str, Any]:
    turns = max(1, text_bytes // 150)
    words = _OTHER if number % 5 == 3 else _ENGLISH  # noqa: PLR2004 - one session in five is not held in English
    return {
        "session_id": f"{number:08d}",
        "user": {"id": rng.randrange(2**63), "name": rng.choice(words), "tier": rng.choice(["free", "pro", None])},
        "messages": [_message(rng, turn, words) for turn in range(turns)],
        "settings": {
            "theme": "dark",
            "model": {"name": "large", "temperature": 0.7, "stop": []},
            "beta": number % 2 == 0,
        },
        "tokens": {"in": rng.randrange(100_000), "out": rng.randrange(10_000)},
        "updated": f"2025-0{1 + number % 9}-1{number % 9}T10:20:30.{number % 1000:03d}Z",
    }


def _message(rng: random.Random, turn: int, words: Sequence[str]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant" if turn % 2 else "user",
        "content": " ".join(rng.choices(words, k=12)),
    }
    if turn % 2:
        message["tool_calls"] = [{"name": rng.choice(_TOOLS), "arguments": {"query": rng.choice(words), "limit": turn}}]
    return message


def _awkward(session: dict[str, Any]) -> str:
    """Numbers and keys spelled as no parser of doubles would give them back."""
    text = json.dumps(session, ensure_ascii=False, separators=(",", ":"))
    numbers = (
        '"snowflake":123456789012345678901234567890,"balance":0.1000000000000000055,"tiny":1e-400,'
        '"zero":-0.0,"rounded":1.0,"limit":1E+5,"limit":1e5'
    )
    return f"{{{numbers},{text[1:]}"
