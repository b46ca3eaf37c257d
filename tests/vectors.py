"""Ids and documents that careless code changes, merges or loses, and that every store can hold."""

from __future__ import annotations

IDS = [
    "default",
    "ユーザー",
    "😀",
    "é",
    "e\u0301",
    "Ada",
    "ada",
    "session:abc:v1",
    ":",
    "a:b:c",
    "with space",
    " lead",
    "trail ",
    "%2F",
    "*?[x]",
    "\\",
    "'; DROP TABLE ag_states; --",
    '"quoted"',
    "tab\tnew\nline",
    "null",
    "-1",
    "x" * 200,
    "é" * 100,
]

DOCUMENTS = {
    "empty": b"{}",
    "large-integer": b'{"n":123456789012345678901234567890123456789012345678901234567890}',
    "above-2-to-53": b'{"n":9007199254740993,"m":-9223372036854775809,"u":18446744073709551616}',
    "long-decimal": b'{"n":0.123456789012345678901234567890,"m":123456789012345678901234567890.5}',
    "almost-a-tenth": b'{"n":0.1000000000000000055}',
    "tiny": b'{"n":1e-400}',
    "huge": b'{"n":1e400}',
    "float-spellings": b'{"a":1.0,"b":-0.0,"c":1E5,"d":1e5,"e":100000,"f":1.10}',
    "empties": b'{"a":[],"b":{},"c":"","d":null,"e":[null],"f":[{}],"g":false,"":0}',
    "escapes": rb'{"t":"\u003cb\u003e\u0026 \u2028 \" \\ \/ \n \ud83d\ude00"}',
    "unicode": '{"ключ":"値","😀":["é","e\u0301"]}'.encode(),
    "duplicates": b'{"a":1,"b":2,"a":3}',
    "unsorted": b'{"b":1,"a":{"d":1,"c":2},"B":3,"aa":4}',
    "spaced": b' {\n\t"a" : [ 1 ,\r 2 ]\n} ',
    "deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "wide": b'{"a":[' + b",".join(b"%d" % i for i in range(20_000)) + b"]}",
    "large": b'{"text":"' + "é".encode() * 2_500_000 + b'"}',
}
