"""Any Redis as a source: every string key that matches a pattern is a state, its key the state's id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa

from agui_pipelines.drivers.redis import RedisWire, glob_prefix
from agui_pipelines.drivers.redis_strings import BATCH_KEYS, StringReader, Strings, is_utf8, state_batch
from agui_pipelines.keyspace import CATALOGUE, Span
from agui_pipelines.ports import BATCH_BYTES, OnReject, Place
from agui_pipelines.records import Kind, Reject
from agui_pipelines.spec import RedisKeysConfig

_WHITE_SPACE: Final = b" \t\r\n"


class RedisKeysSource:
    """The keys that match ``match``, a glob as Redis understands it; connects when it is first used.

    A value that begins like a JSON object is passed on as it is; of any other the text becomes a document (`salvage`).
    """

    def __init__(self, config: RedisKeysConfig) -> None:
        self._wire = RedisWire(config)
        self._match = config.match

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    def place(self) -> Place:
        """The server is known by its run id, or by its address if it does not tell."""
        server = self._wire.server.run_id or self._wire.address
        return Place("redis", server, str(self._wire.database), glob_prefix(self._match))

    def describe(self) -> str:
        return f"{self._wire.url}, keys that match {self._match}"

    def ping(self) -> str:
        server = self._wire.server
        self._wire.call(b"PING")
        return f"{server.name} {server.version}".strip()

    def close(self) -> None:
        self._wire.close()

    def exists(self) -> bool:
        """A Redis that answers has every key space there is."""
        self.ping()
        return True

    def keys(self) -> Iterator[pa.RecordBatch]:
        for page in self._wire.scan(self._match.encode("utf-8", "surrogateescape")):
            if page:
                columns = [pa.array(page, pa.binary()), pa.repeat(1, len(page))]
                yield pa.RecordBatch.from_arrays(columns, schema=CATALOGUE)

    def read(self, kind: Kind, span: Span, on_reject: OnReject) -> Iterator[pa.RecordBatch]:
        """States, if `kind` is that. A key of another type is rejected by name, its content is not read."""
        if kind is not Kind.STATE:
            return

        def reject(id_: bytes, raw: bytes | None, reason: str, detail: str) -> None:
            on_reject(Reject(Kind.STATE, id_, raw, "export", reason, detail))

        reader: StringReader[bytes] = StringReader(self._wire, list, expiries=True, max_bytes=BATCH_BYTES)
        for found in reader.read(span.keys(BATCH_KEYS)):
            for id_, type_ in found.others:
                reject(id_, None, "unsupported_type", f"The key holds a {type_}; only strings can become states.")
            batch = state_batch(
                self._documents(found, reject),
                lambda id_, raw: reject(id_, raw, "id_not_utf8", "The key is not UTF-8 text."),
            )
            if batch.num_rows:
                yield batch
            del found, batch  # or a large document would still be held while the next one arrives

    def _documents(
        self, found: Strings[bytes], reject: Callable[[bytes, bytes | None, str, str], None]
    ) -> Strings[bytes]:
        """The strings with documents for values; those that cannot become documents are left out and rejected."""
        if all(value.startswith(b"{") for value in found.values):
            return found
        rows: list[int] = []
        documents: list[bytes] = []
        for i, (key, value) in enumerate(zip(found.tags, found.values, strict=True)):
            # What has no usable key is rejected later, and with the value as it is.
            whole = value.lstrip(_WHITE_SPACE).startswith(b"{") or not is_utf8(key)
            document = value if whole else self.salvage(value)
            if document is None:
                reject(key, value, "not_utf8", "The value is neither a JSON object nor text in UTF-8.")
            else:
                rows.append(i)
                documents.append(document)
        tags, expiries = [found.tags[i] for i in rows], [found.expiries[i] for i in rows]
        return replace(found, tags=tags, values=documents, expiries=expiries)

    def salvage(self, document: bytes) -> bytes | None:
        """Another form of a value that turned out not to be a JSON object: its text as a member of one.

        None if the value is not text in UTF-8.
        """
        try:
            text = document.decode("utf-8")
        except UnicodeDecodeError:
            return None
        return b'{"value":%b,"type":"string"}' % orjson.dumps(text)


def open_(config: RedisKeysConfig, folder: Path) -> RedisKeysSource:  # noqa: ARG001 - every source is opened alike
    return RedisKeysSource(config)
