"""Where a PostgreSQL configuration points, as parameters of a connection and as something that can be shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from agui_pipelines.errors import SpecError
from agui_pipelines.spec import PostgresConfig, PostgresRowsConfig

_KEEPALIVES: Final = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A peer that vanished is noticed within a minute, whatever the statement, so that no statement needs a time limit only
to notice it. Seconds, and milliseconds for the last."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One database on one server, and how to log in there."""

    parameters: dict[str, str] = field(repr=False)
    """For libpq; the password is among them, so they are never shown."""
    address: str
    """``host:port``, several separated by commas."""
    user: str
    database: str
    statement_timeout: float
    """Seconds; 0 is none."""
    idle_timeout: float
    """Seconds after which a connection that nobody used is not trusted any more; 0 is none."""

    @classmethod
    def of(cls, config: PostgresConfig | PostgresRowsConfig) -> Self:
        """What a configuration means. Raises `SpecError` for a URL that libpq cannot read."""
        options = config.postgresql_options
        defaults = {
            **_KEEPALIVES,
            # libpq counts whole seconds, and takes 0 for no limit of ours.
            "connect_timeout": str(max(1, round(config.connect_timeout)) if config.connect_timeout else 0),
            "sslmode": options.ssl_mode,
            "application_name": options.application_name,
        }
        own = _parsed(config.connection_url.get_secret_value())
        if config.database is not None:
            own["dbname"] = config.database
        parameters = {**defaults, **own, "client_encoding": "UTF8"}
        return cls(
            parameters=parameters,
            address=_address(own),
            user=own.get("user", ""),
            database=own.get("dbname") or own.get("user", ""),
            statement_timeout=options.statement_timeout,
            idle_timeout=config.idle_timeout,
        )

    @property
    def url(self) -> str:
        """The URL without password and options, for people."""
        login = self.user + (":***" if self.parameters.get("password") else "")
        return f"postgresql://{login}{'@' if login else ''}{self.address}/{self.database}"

    def without_secrets(self, text: str) -> str:
        """A driver's message; should it ever repeat the password, not any more."""
        for name in ("password", "sslpassword"):
            if secret := self.parameters.get(name):
                text = text.replace(secret, "***")
        return text


def _parsed(url: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        # Not chained: libpq's message quotes the part that it cannot read, which may be the password.
        raise SpecError(
            "connection_url is no PostgreSQL URL that can be read.",
            why="Special characters in user or password must be percent-encoded, and options spelled as libpq knows them.",
            remedy="Write it like postgresql://user:password@host:5432/database.",
        ) from None


def _address(parameters: dict[str, str]) -> str:
    hosts = (parameters.get("host") or parameters.get("hostaddr") or "localhost").split(",")
    ports = (parameters.get("port") or "5432").split(",")
    if len(ports) != len(hosts):
        ports = [ports[0]] * len(hosts)
    return ",".join(f"{host}:{port or '5432'}" for host, port in zip(hosts, ports, strict=True))
