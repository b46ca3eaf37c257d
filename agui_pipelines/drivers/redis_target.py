"""Which Redis server a configuration names, and as whom to connect to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from redis import exceptions as redis_errors
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url

from agui_pipelines.errors import SpecError
from agui_pipelines.spec import RedisConfig, RedisKeysConfig, RedisOptions

_DATABASE_PATH: Final = re.compile(r"/?(\d*)/?", re.ASCII)
_POOL_OPTIONS: Final = frozenset({"max_connections", "timeout", "cache_config", "cache"})
"""What a URL may say to redis-py's connection pool, which is not used here."""
_TLS_NAMES: Final = {"ssl_ca_certs": "tls_ca_file", "ssl_certfile": "tls_cert_file", "ssl_keyfile": "tls_key_file"}
"""How redis-py, and a URL for it, calls our options."""
_TLS_FILES: Final = {"ssl_ca_certs": "CA file", "ssl_certfile": "client certificate", "ssl_keyfile": "client key"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and as whom. No field but `options` holds a secret."""

    connection_class: type[Connection | UnixDomainSocketConnection]
    options: dict[str, Any] = field(repr=False)
    address: str
    url: str
    user: str
    database: int

    @classmethod
    def of(cls, config: RedisConfig | RedisKeysConfig) -> Target:
        options = _url_options(config.connection_url.get_secret_value())
        connection_class = options.pop("connection_class", Connection)
        if config.redis_options.enable_tls and connection_class is Connection:
            connection_class = SSLConnection
        options |= _tls_options(config.redis_options, connection_class)
        if config.redis_options.username:
            options["username"] = config.redis_options.username
        if config.redis_options.password is not None and config.redis_options.password.get_secret_value():
            options["password"] = config.redis_options.password.get_secret_value()
        if "db" in config.redis_options.model_fields_set:
            options["db"] = config.redis_options.db
        elif isinstance(config, RedisConfig) and str(config.database).isdecimal():
            options.setdefault("db", int(config.database or 0))
        database = options.setdefault("db", 0)
        user = options.get("username", "")
        login = quote(user, safe="") + "@" if user else ""
        if connection_class is UnixDomainSocketConnection:
            address = options.get("path", "")
            return cls(connection_class, options, address, f"unix://{login}{address}?db={database}", user, database)
        host, port = options.setdefault("host", "localhost"), options.setdefault("port", 6379)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "rediss" if connection_class is SSLConnection else "redis"
        return cls(connection_class, options, address, f"{scheme}://{login}{address}/{database}", user, database)

    def at(self, host: str, port: int) -> Target:
        """Another node that is reached in the same way."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        url = self.url.replace(self.address, address)
        return replace(self, options={**self.options, "host": host, "port": port}, address=address, url=url)

    def connection(self, timeout: float | None) -> Connection | UnixDomainSocketConnection:
        """A connection that is not yet made. `timeout` is for each step of making it, in seconds."""
        ours = {
            "protocol": 2,  # replies that need no translation, and no pushed ones
            "socket_connect_timeout": timeout,
            "socket_timeout": timeout,
            "health_check_interval": 0,
            "driver_info": None,
        }
        self._require_files()
        try:
            return self.connection_class(**{**self.options, **ours})
        except (TypeError, ValueError, redis_errors.RedisError):
            raise SpecError(
                f"The options in the connection_url of {self.address} are not understood.",
                remedy="Use those of redis-py, such as ?ssl_ca_certs=/path/ca.pem.",
            ) from None

    def _require_files(self) -> None:
        for option, what in _TLS_FILES.items():
            file = self.options.get(option)
            if file is None:
                continue
            try:
                found = Path(file).read_text("utf-8", "replace")
                reason = "" if "-----BEGIN " in found else "it holds no certificate or key as PEM"
            except OSError as error:
                reason = str(error.strerror)
            if reason:
                raise SpecError(
                    f"The {what} for Redis at {self.address} cannot be used: {file}: {reason}.",
                    why="Without it the connection cannot be made as it is asked for.",
                    remedy=f"Correct redis_options.{_TLS_NAMES[option]}, or {option} in connection_url.",
                )


def _tls_options(
    options: RedisOptions, connection_class: type[Connection | UnixDomainSocketConnection]
) -> dict[str, Any]:
    """redis-py's names of the TLS options that are given. Without them it verifies certificate and host name."""
    files = {option: str(file) for option, name in _TLS_NAMES.items() if (file := getattr(options, name)) is not None}
    if not files and not options.tls_insecure:
        return {}
    if connection_class is not SSLConnection:
        raise SpecError(
            "redis_options has options of TLS, but the connection would be made without TLS.",
            why="Passwords and data would travel in plain text.",
            remedy="Write rediss:// in connection_url, or set redis_options.enable_tls.",
        )
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise SpecError("redis_options has a tls_key_file, but no tls_cert_file that it belongs to.")
    return files | ({"ssl_cert_reqs": "none", "ssl_check_hostname": False} if options.tls_insecure else {})


def _url_options(url: str) -> dict[str, Any]:
    """redis-py's connection options. What it would only half understand is refused: that leads to another server."""
    if "://" not in url:  # the reference hands connection_url to its driver as host:port
        url = f"redis://{url}"
    try:
        parts = urlsplit(url)
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        understood = parts.scheme == "unix" or (
            _DATABASE_PATH.fullmatch(parts.path) and (parts.hostname or not parts.netloc)
        )
    except ValueError:
        understood = False
    if not understood or parts.fragment or not all("=" in option for option in parts.query.split("&") if option):
        raise SpecError(
            "The connection_url of the Redis server is not a URL such as redis://user:password@host:6379/0.",
            why="It is not shown here, since it may hold a password.",
            remedy="Percent-encode special characters of the password: / as %2F, # as %23, @ as %40, ? as %3F.",
        )
    return {name: value for name, value in options.items() if name not in _POOL_OPTIONS}
