"""Any system as a source, through a reader of your own and, where its records are no states yet, a transformer.

A *reader* is whatever can be called with the migration file's ``options`` and then iterated over once: a class with
``__iter__``, or a generator function. It yields `Record`; if it has ``close()``, that is called when the scan ends, however it
ends. A *transformer* makes a state of a record: a class, called with ``transformer_options``, whose ``transform(record)``
returns the state's id and its document; or a function that takes the record and those options.

With ``orders.py`` beside the migration file::

    from agui_pipelines.sources.custom import Record

    class Orders:
        def __init__(self, url):
            self._client = connect(url)

        def __iter__(self):
            for order in self._client.orders():
                yield Record(order.key, order.fields, {"updated_at": order.changed})

        def close(self):
            self._client.close()

    def as_state(record):
        return f"order:{record.id}", {"lines": record.data["lines"]}

::

    source:
      type: custom
      reader: "orders:Orders"
      transformer: "orders:as_state"
      options: {url: "${ORDERS_URL}"}

An installed package may register both under names instead, which then stand for ``module:attribute``::

    [project.entry-points."agui_pipelines.readers"]
    orders = "my_package.orders:Orders"
    [project.entry-points."agui_pipelines.transformers"]
    order_states = "my_package.orders:as_state"

A document is a mapping, or JSON text as ``str`` or ``bytes``, which is carried as it is. Numbers are kept exactly: integers of
any size, `decimal.Decimal`; a ``float`` as the shortest decimal that stands for it. For dates, bytes and the like, see
`values`. Without a transformer, ``record.id`` and ``record.data`` are the state.

The metadata ``created_at``, ``updated_at`` and ``expires_at`` become the state's times: a `datetime`, RFC 3339 text (UTC where
there is no offset), or seconds since 1970. Other metadata is the transformer's business, and is left behind with it.

A record for which the transformer raises, or of which no state can be made, is rejected by name; the run goes on within
``limits.max_rejects``. An exception of the reader itself ends the run, as nobody could tell what else it would have yielded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

import pyarrow as pa

from agui_pipelines import user_code
from agui_pipelines.errors import MigrationError, SourceError
from agui_pipelines.ports import OnReject, Place
from agui_pipelines.records import Kind
from agui_pipelines.sources.rows import Row, State, batched, document_of, id_text, raw_row, rejected, time_text
from agui_pipelines.sources.times import as_milliseconds
from agui_pipelines.sources.values import UnfitError
from agui_pipelines.spec import CustomConfig
from agui_pipelines.spec.text import redacted, struck
from agui_pipelines.user_code import Loaded, told

READERS: Final = "agui_pipelines.readers"
TRANSFORMERS: Final = "agui_pipelines.transformers"
"""Entry-point groups."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a reader yields: an id, data of any kind, and what else is known of it."""

    id: str
    data: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class DataReader(Protocol):
    """Yields every record once, in any order. It may have ``close()``."""

    def __iter__(self) -> Iterator[Record]: ...


@runtime_checkable
class DataTransformer(Protocol):
    """Makes a state of a record."""

    def transform(self, record: Record) -> tuple[str, Any]:
        """The state's id and its document; whatever it raises rejects the record."""
        ...


class CustomSource:
    """The records of a user's reader. His code is imported when it is first needed."""

    def __init__(self, config: CustomConfig, folder: Path) -> None:
        self._config, self._folder = config, folder

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (Kind.STATE,)

    @property
    def fingerprint(self) -> str:
        """Changes when the user's modules do."""
        return " ".join(code.digest for code in (self._reader, self._transformer) if code is not None)

    def place(self) -> Place:
        """Nothing is known of where a reader reads; it is never a target."""
        return Place("custom", self._config.reader, "")

    def describe(self) -> str:
        """Options are left out, as they may hold secrets."""
        through = f" through {self._config.transformer}" if self._config.transformer else ""
        return f"records of {self._config.reader}{through}"

    def ping(self) -> str:
        """Imports the user's code; raises `SpecError` if there is none."""
        return f"reader {self._reader.digest}" + (
            f", transformer {self._transformer.digest}" if self._transformer else ""
        )

    def exists(self) -> bool:
        """Only reading could tell."""
        return True

    def close(self) -> None:
        """A reader is closed when its scan ends."""

    def scan(self, on_reject: OnReject) -> Iterator[tuple[Kind, pa.RecordBatch]]:
        return batched(self._states(on_reject))

    @cached_property
    def _reader(self) -> Loaded:
        return user_code.load(self._config.reader, self._folder, "reader", READERS)

    @cached_property
    def _transformer(self) -> Loaded | None:
        if self._config.transformer is None:
            return None
        return user_code.load(self._config.transformer, self._folder, "transformer", TRANSFORMERS, beside=self._reader)

    def _states(self, on_reject: OnReject) -> Iterator[State]:
        transform = self._transform()
        for number, record in enumerate(self._records(), 1):
            origin = f"record {number:,}"
            try:
                yield _state(record, transform)
            except UnfitError as error:
                row = Row(origin, {}, partial(_raw, record))
                rejected(on_reject, _name(record, origin), row, error.reason, str(error))

    def _records(self) -> Iterator[Record]:
        """What the reader yields; its own trouble is told as that."""
        number = 0
        with self._blamed(lambda: number):
            reader = self._reader.value(**self._config.options)
            try:
                for record in reader:
                    number += 1
                    if not isinstance(record, Record):
                        raise SourceError(
                            f"The reader '{self._config.reader}' yielded {type(record).__name__} as its record {number:,}.",
                            why="A record needs an id and data.",
                            remedy="Yield agui_pipelines.sources.custom.Record(id, data, metadata).",
                        )
                    yield record
            finally:
                close = getattr(reader, "close", None)
                if close is not None:
                    close()

    @contextmanager
    def _blamed(self, number: Callable[[], int]) -> Iterator[None]:
        try:
            yield
        except (MigrationError, GeneratorExit):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told as an error of ours
            raise SourceError(
                f"The reader '{self._config.reader}' broke after {number():,} records: "
                f"{_told(error, self._config.options)}",
                why="Nobody can tell what else it would have yielded.",
                remedy="Mend the reader or its options in the migration file, and run again.",
            ) from None  # its text may quote a password, and Dagster keeps the text of each error in the chain

    def _transform(self) -> Callable[[Record], Any]:
        """What makes an id and a document of a record. Raises `SourceError` if the transformer cannot be made."""
        loaded, options = self._transformer, self._config.transformer_options
        if loaded is None:
            return lambda record: (record.id, record.data)
        made: Any = loaded.value
        if not inspect.isclass(made):
            return partial(made, **options)
        try:
            transformer = cast("DataTransformer", made(**options))
            return transformer.transform  # noqa: TRY300 - that it has one is what is tried
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told as an error of ours
            raise SourceError(
                f"The transformer '{self._config.transformer}' cannot be made: {_told(error, options)}",
                remedy="It is called with transformer_options, and needs a method transform(record).",
            ) from None


def _told(error: BaseException, options: Mapping[str, Any]) -> str:
    """An error's kind and text, without the passwords among the options that the user's code was called with."""
    text = told(error)
    for secret in _secrets(options, struck(options)):
        text = text.replace(secret, "***")
    return redacted(text)


def _secrets(value: Any, public: Any) -> Iterator[str]:
    """The texts within a value that are not as in its public form."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, public[key])
    elif isinstance(value, list):
        for item, shown in zip(value, public, strict=True):
            yield from _secrets(item, shown)
    elif isinstance(value, str) and value != public:
        yield value


def _state(record: Record, transform: Callable[[Record], Any]) -> State:
    """Raises `UnfitError` for whatever keeps the record from becoming a state."""
    try:
        made = transform(record)
    except (Exception, SystemExit) as error:
        raise UnfitError("transformer_failed", f"The transformer raised {told(error)}") from error
    if not (isinstance(made, tuple) and len(made) == 2):  # noqa: PLR2004
        raise UnfitError("transformer_failed", f"The transformer returned {type(made).__name__}, not (id, document).")
    state_id, document = made
    if not isinstance(document, (Mapping, str, bytes)):
        raise UnfitError(
            "not_an_object", f"The document is {type(document).__name__}, neither a mapping nor JSON text."
        )
    times = record.metadata
    return State(
        id_text(state_id, "id"),
        document_of(document),
        time_text(times.get("created_at")),
        time_text(times.get("updated_at")),
        as_milliseconds(times.get("expires_at")),
    )


def _name(record: Record, origin: str) -> bytes:
    try:
        return id_text(record.id, "id").encode() or origin.encode()
    except UnfitError:
        return record.id if isinstance(record.id, bytes) else origin.encode()


def _raw(record: Record) -> bytes:
    if isinstance(record.data, bytes):
        return record.data
    if isinstance(record.data, str):
        return record.data.encode("utf-8", "surrogatepass")
    return raw_row(record.data) if isinstance(record.data, Mapping) else raw_row({"data": record.data})


def open_(config: CustomConfig, folder: Path) -> CustomSource:
    return CustomSource(config, folder)
