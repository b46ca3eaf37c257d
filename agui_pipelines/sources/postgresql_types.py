"""How a value of each PostgreSQL type becomes exact JSON.

The server builds the text (``row_to_json``), which is exact for nearly every type: a ``numeric`` keeps all its digits, a
float gets the shortest text that reads back as the same float, ``NaN`` and ``Infinity`` become strings, ``json`` and
``jsonb`` stay as they are, arrays and composites nest, times are ISO 8601 (a ``timestamptz`` in UTC: RFC 3339), and what
has no JSON form is the server's own text for it: ranges, ``interval`` (``P1DT2H``), ``uuid``, ``inet``, enums, bits,
``infinity``. `SETTINGS` makes those texts independent of how server, database and role are configured.

It is not exact, or not plain, about three things, for which `Types.json` writes another expression:

* ``bytea``, also within arrays, composites and domains: ``{"type": "bytea", "base64": "…"}``;
* types with a cast to json that somebody defined, which may leave out what it likes (PostGIS rounds coordinates): the
  server's text instead;
* not kept at all: the lower bounds of an array whose first index is not 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import sql

from agui_pipelines.drivers.postgresql import Connection
from agui_pipelines.errors import StoreError

SETTINGS: Final = {
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "3",
    "bytea_output": "hex",
}

_BYTEA: Final = 17
_DIMENSIONS: Final = 6
"""As many as an array can have."""
_LENGTHS: Final = [f"coalesce(array_length(a, {number}), 1)" for number in range(1, _DIMENSIONS + 1)]
_BLOCKS: Final = (
    f"(ARRAY[{', '.join(' * '.join(_LENGTHS[number:]) for number in range(_DIMENSIONS))}])[1:array_ndims(a)]"
)
"""How many elements a block of each dimension has: a whole matrix, one row of it."""
_ARRAY: Final = """CASE WHEN cardinality({value}) > 0 THEN (
    SELECT string_agg(
        repeat('[', (SELECT count(*) FROM unnest({items}.blocks) AS b WHERE (k - 1) % b = 0)::int)
        || coalesce({json}::text, 'null')
        || repeat(']', (SELECT count(*) FROM unnest({items}.blocks) AS b WHERE k % b = 0)::int), ',' ORDER BY k
    )::json
    FROM (
        SELECT blocks, unnest(a) AS {item}, generate_series(1, cardinality(a)) AS k
        FROM (SELECT a, {blocks} AS blocks FROM (SELECT {value} AS a OFFSET 0) AS given OFFSET 0) AS measured
    ) AS {items}
) ELSE to_json({value}) END"""
_TYPE: Final = """
SELECT t.oid::bigint, t.typname, format_type(t.oid, NULL), t.typcategory::text,
    t.typbasetype::bigint, coalesce(e.oid, 0)::bigint, t.typrelid::bigint,
    EXISTS (SELECT FROM pg_cast WHERE castsource = t.oid AND casttarget = 'json'::regtype AND castfunc <> 0)
FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
WHERE t.oid = %s
"""
_ATTRIBUTES: Final = """
SELECT attname, atttypid::bigint FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_EXACT_CAST: Final = "hstore"
"""Its cast to json keeps everything: keys and values are strings."""


@dataclass(frozen=True, slots=True)
class Type:
    """A row of ``pg_type``; `base`, `element` and `relation` are oids, and 0 where there is none."""

    oid: int
    name: str
    spelling: str
    category: str
    base: int
    element: int
    relation: int
    has_json_cast: bool


class Types:
    """The types of one database, looked up when they are met."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[int, Type] = {}

    def __getitem__(self, oid: int) -> Type:
        if oid not in self._known:
            row = self._connection.execute(_TYPE.encode(), (oid,)).fetchone()
            if row is None:
                raise StoreError(f"The server's catalogue does not know the type {oid} of a column.")
            self._known[oid] = Type(*row)
        return self._known[oid]

    def underlying(self, oid: int) -> Type:
        """The type itself, or what a domain is made of."""
        found = self[oid]
        return self.underlying(found.base) if found.base else found

    def json(self, value: sql.Composable, oid: int, depth: int = 0) -> sql.Composable | None:
        """An expression for a value's JSON, or None where ``row_to_json`` does right by itself."""
        found = self[oid]
        if found.base:
            base = sql.SQL(self.underlying(oid).spelling)
            return self.json(sql.SQL("({})::{}").format(value, base), found.base, depth)
        if found.oid == _BYTEA:
            text = sql.SQL("translate(encode({}, 'base64'), E'\\n', '')").format(value)
            document = row_as_json([("type", sql.Literal("bytea")), ("base64", text)])
            return sql.SQL("CASE WHEN ({}) IS NOT NULL THEN {} END").format(value, document)
        if found.element:
            return self._array(value, found.element, depth)
        if found.relation:
            return self._composite(value, found.relation, depth)
        if found.has_json_cast and found.name != _EXACT_CAST:
            return sql.SQL("to_json(({})::text)").format(value)
        return None

    def _array(self, value: sql.Composable, element: int, depth: int) -> sql.Composable | None:
        """Elements come in one list whatever the dimensions; brackets go where a block of one dimension begins or ends."""
        items, item = sql.Identifier(f"items{depth}"), sql.Identifier(f"item{depth}")
        inner = self.json(sql.SQL("{}.{}").format(items, item), element, depth + 1)
        if inner is None:
            return None
        return sql.SQL(_ARRAY).format(value=value, items=items, item=item, blocks=sql.SQL(_BLOCKS), json=inner)

    def _composite(self, value: sql.Composable, relation: int, depth: int) -> sql.Composable | None:
        attributes = self._connection.execute(_ATTRIBUTES.encode(), (relation,)).fetchall()
        members = [(name, sql.SQL("({}).{}").format(value, sql.Identifier(name)), oid) for name, oid in attributes]
        found = [(name, member, self.json(member, oid, depth)) for name, member, oid in members]
        if all(other is None for _, _, other in found):
            return None
        row = row_as_json([(name, other or member) for name, member, other in found])
        # IS NULL would also be true of a row of nulls.
        return sql.SQL("CASE WHEN ({}) IS DISTINCT FROM NULL THEN {} END").format(value, row)


def row_as_json(members: list[tuple[str, sql.Composable]]) -> sql.Composed:
    """A JSON object of any number of members, which ``json_build_object`` cannot do."""
    columns = [sql.SQL("{} AS {}").format(member, sql.Identifier(name)) for name, member in members]
    return sql.SQL('(SELECT row_to_json("row".*) FROM (SELECT {}) AS "row")').format(sql.SQL(", ").join(columns))
