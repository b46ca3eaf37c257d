"""Scratch places of a store on PostgreSQL: schemas of the same database, whose comments say who made them."""

from __future__ import annotations

from typing import Final

from psycopg import sql

from agui_pipelines.drivers.postgresql import Connections, Work
from agui_pipelines.drivers.postgresql_endpoint import Endpoint
from agui_pipelines.owner import Owner
from agui_pipelines.spec import PostgresConfig
from agui_pipelines.stores.scratch import NAME, SCRATCH

_HEAD: Final = f"agui_{SCRATCH}_"
_EXISTING: Final = """
SELECT nspname, obj_description(oid, 'pg_namespace') FROM pg_namespace
WHERE starts_with(nspname, %s) AND pg_has_role(nspowner, 'USAGE')
"""


class PostgresScratches:
    """See `scratch.Scratches`. To make one takes the privilege CREATE on the database."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._connections = Connections(Endpoint.of(config))

    def make(self, name: str, owner: Owner) -> PostgresConfig:
        schema = _HEAD + name
        with self._connections.lent(Work.WRITE) as connection, connection.transaction():
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            connection.execute(
                sql.SQL("COMMENT ON SCHEMA {} IS {}").format(
                    sql.Identifier(schema), sql.Literal(owner.to_json().decode())
                )
            )
        return self._config.model_copy(update={"schema_": schema})

    def existing(self) -> dict[str, Owner | None]:
        """Those of other roles are left out: they could not be removed."""
        with self._connections.lent(Work.RECORD) as connection:
            rows = connection.execute(_EXISTING.encode(), (_HEAD,)).fetchall()
        found = {schema.removeprefix(_HEAD): Owner.parsed(comment) for schema, comment in rows}
        return {name: owner for name, owner in found.items() if NAME.fullmatch(name)}

    def remove(self, name: str) -> None:
        with self._connections.lent(Work.WRITE) as connection:
            connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(_HEAD + name)))

    def where(self, name: str) -> str:
        return f"the schema {_HEAD}{name}"

    def close(self) -> None:
        self._connections.close()
