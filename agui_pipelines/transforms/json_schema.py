"""``json_schema: {file: state.schema.json}``: rejects by name every state that does not fit a JSON Schema; changes nothing.

The schema lies in a JSON file beside the migration file, or stands there itself as ``{schema: {…}}``.

::

    transforms:
      - json_schema:
          schema: {type: object, required: [n], properties: {n: {type: integer, minimum: 0}}}
    before:     user-1  {"n": 123456789012345678901234567890}
    after:      user-1  {"n": 123456789012345678901234567890}
    before:     user-2  {"n": -1}
    rejected:   schema_violation

The reject tells where in the document (a JSON pointer) and by which keyword of the schema. Numbers are exact: ``1.0`` counts as
an integer, as the specification has it, and ``multipleOf: 0.01`` is decided in decimal. Without ``$schema`` the draft is
2020-12; ``format`` is not asserted; a ``$ref`` leads within the schema or to a published metaschema, as nothing is fetched.

What versions and snapshots recorded is checked too; ``history: false`` checks states only. Deltas are left as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import jsonschema
import pyarrow as pa
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from agui_pipelines import documents
from agui_pipelines.errors import SpecError, TransformError
from agui_pipelines.ports import OnReject
from agui_pipelines.records import Kind
from agui_pipelines.transforms.field_paths import written
from agui_pipelines.transforms.options import exact, fingerprint, wrong
from agui_pipelines.transforms.rewriting import Document, RejectedError, changed_document, rewrite

_NAME: Final = "json_schema"
_EXAMPLE: Final = "json_schema: {file: state.schema.json}"
_SHOWN: Final = 80
"""Characters of a keyword's value in a message."""


class JsonSchema:
    identity = False

    def __init__(self, schema: Any, *, history: bool) -> None:
        self._validator = _exact_validator(schema)(schema, registry=REGISTRY)
        self._history = history
        self.fingerprint = fingerprint(_NAME, [schema, history])

    def apply(self, kind: Kind, batch: pa.RecordBatch, on_reject: OnReject) -> pa.RecordBatch:
        if kind is not Kind.STATE and not self._history:
            return batch
        return rewrite(kind, batch, on_reject, self._one, columns=("data",))

    def _one(self, data: bytes) -> None:
        changed_document(_NAME, data, self._check)

    def _check(self, document: Document) -> bool:
        try:
            error = next(self._validator.iter_errors(document), None)
        except Unresolvable as missing:
            raise TransformError(
                f"The schema refers to '{missing.ref}', which is not in it.",
                why="No state can be checked against it.",
                remedy="Put what it refers to into the schema's $defs; nothing is fetched.",
            ) from None
        if error is not None:
            where = written(tuple(map(str, error.absolute_path))) or "the document itself"
            raise RejectedError("schema_violation", f"'{where}' breaks the schema's {error.validator} {_shown(error)}.")
        return False


def build(options: Any, folder: Path) -> JsonSchema:
    given = {"file": options} if isinstance(options, str) else options
    if not isinstance(given, dict) or len({"file", "schema"} & set(given)) != 1:
        raise wrong(_NAME, "needs a file or a schema", _EXAMPLE)
    history = given.get("history", True)
    if set(given) - {"file", "schema", "history"} or not isinstance(history, bool):
        raise wrong(_NAME, "takes, beside file or schema, only history, true or false", _EXAMPLE)
    schema = exact(_NAME, given["schema"], _EXAMPLE) if "schema" in given else _read(given["file"], folder)
    try:
        _exact_validator(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        where = written(tuple(map(str, error.absolute_path))) or "its top"
        raise SpecError(
            f"The transform '{_NAME}' was given what is no JSON Schema: at {where}, {error.message[:200]}.",
            remedy="Mend the schema, and run again.",
        ) from None
    return JsonSchema(schema, history=history)


def _read(file: Any, folder: Path) -> Any:
    if not isinstance(file, str) or not file:
        raise wrong(_NAME, "needs the name of a file", _EXAMPLE)
    path = folder / file
    try:
        return documents.loads(path.read_bytes())
    except OSError as error:
        raise SpecError(
            f"The schema {path} cannot be read: {error.strerror}.", remedy="It counts from the migration file's folder."
        ) from None
    except ValueError as error:
        raise SpecError(f"The schema {path} is not JSON: {error}.", remedy="Write it as JSON in UTF-8.") from None


def _exact_validator(schema: Any) -> Any:
    """The validator class of the draft that a schema names, for numbers that are `int` or `Decimal`."""
    draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    types = draft.TYPE_CHECKER.redefine("integer", lambda _, value: _is_whole(value))
    return jsonschema.validators.extend(draft, {"multipleOf": _multiple_of}, type_checker=types)


def _is_whole(value: Any) -> bool:
    if isinstance(value, Decimal):
        return bool(value == value.to_integral_value())
    return isinstance(value, int) and not isinstance(value, bool)


def _multiple_of(validator: Any, unit: Any, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:  # noqa: ARG001
    """Decided on digits and exponents, as a quotient may need more digits than any context has."""
    if not validator.is_type(value, "number"):
        return
    (coefficient, exponent), (unit_coefficient, unit_exponent) = _integers(value), _integers(unit)
    shift = exponent - unit_exponent
    if shift >= 0:
        whole = coefficient * pow(10, shift, unit_coefficient) % unit_coefficient == 0
    else:
        # A multiple of 10**-shift ends in as many zeros, so no number with fewer digits is one, except 0.
        whole = coefficient == 0 or (
            -shift <= len(Decimal(value).as_tuple().digits) and coefficient % (unit_coefficient * 10**-shift) == 0
        )
    if not whole:
        yield jsonschema.ValidationError("not a multiple")


def _integers(value: int | Decimal) -> tuple[int, int]:
    """Absolute coefficient and exponent of ten."""
    if isinstance(value, int):
        return abs(value), 0
    _, digits, exponent = value.as_tuple()
    return int(Decimal((0, digits, 0))), int(exponent)


def _shown(error: jsonschema.ValidationError) -> str:
    """A keyword's value as the schema has it; never what the document holds."""
    text = documents.dumps(error.validator_value).decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
