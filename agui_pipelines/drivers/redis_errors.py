"""What a Redis server, or the way to it, answers when something is wrong, as errors of this project.

No message holds a password: of what happens during a login, only the driver's exception type is used.
"""

from __future__ import annotations

import ssl
from typing import Final

from redis import exceptions as redis_errors
from redis.connection import SSLConnection

from agui_pipelines.drivers.redis_target import Target
from agui_pipelines.errors import (
    ConnectionFailedError,
    InterruptedConnectionError,
    MigrationError,
    SlotMovedError,
    StoreBusyError,
    StoreError,
    UnreachableError,
)

LOGIN: Final = frozenset({"NOAUTH", "WRONGPASS", "DENIED"})
"""Codes of replies that say that we are not let in."""

_CLUSTER: Final = frozenset({"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"})
_MOVING: Final = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"})
_BUSY: Final = {
    "LOADING": "It is still loading its data from disk.",
    "BUSY": "A script keeps it busy.",
    "TRYAGAIN": "Keys are being moved.",
    "MASTERDOWN": "It is a replica that has lost its primary.",
    "NOREPLICAS": "Too few of its replicas are connected for it to accept a write.",
}
_REMEDIES: Final = {
    "OOM": (
        "Its memory limit is reached. What was written so far is kept, and can be written again.",
        "Raise maxmemory or free memory, then resume.",
    ),
    "READONLY": ("It is a replica, and a replica takes no writes.", "Name the primary in connection_url."),
    "MISCONF": ("It cannot save its data to disk, and accepts no writes until it can.", "See the server's log."),
    "WRONGTYPE": ("A key that belongs to the store holds another type of value.", "Rename or delete that key."),
}


def error_reply(text: str, target: Target, *, clustered: bool = False) -> MigrationError:
    """What a server, perhaps a node of a cluster, answered instead of a reply, by the code that its text begins with."""
    text = text.rstrip(".")
    code = text.split(" ", 1)[0]
    where = f"Redis at {target.address}"
    if code in LOGIN:
        return _refused_login(text, target)
    if code == "NOPERM":
        return StoreError(
            f"{where} does not permit the user '{target.user or 'default'}' to do this: {text}.",
            remedy="Grant the permission with ACL SETUSER, or connect as another user.",
        )
    if clustered and code in _MOVING:
        return SlotMovedError(f"{where} says: {text}.", remedy="Try again later.")
    if code in _CLUSTER:
        return unusable_mode("cluster", target)
    if code in _BUSY or text.startswith("ERR max number of clients"):
        why = _BUSY.get(code, "It has as many clients as it accepts.")
        return StoreBusyError(f"{where} cannot answer now: {text}.", why=why, remedy="Try again later.")
    why, remedy = _REMEDIES.get(code, ("", ""))
    return StoreError(f"{where} refuses: {text}.", why=why, remedy=remedy)


def _refused_login(text: str, target: Target) -> ConnectionFailedError:
    code = text.split(" ", 1)[0]
    if code == "DENIED":
        return ConnectionFailedError(
            f"Redis at {target.address} refuses connections from other machines: it runs in protected mode.",
            remedy="Give it a password, or bind it to the interface that is meant to be reached.",
        )
    given = "the password given is wrong" if code == "WRONGPASS" else "it wants a password"
    return ConnectionFailedError(
        f"Redis at {target.address} does not let the user '{target.user or 'default'}' in: {given}.",
        remedy="Correct user and password in connection_url, or redis_options.password.",
    )


def interrupted(error: OSError, target: Target) -> InterruptedConnectionError:
    """A connection that broke while it was used."""
    return InterruptedConnectionError(
        f"The connection to Redis at {target.address} broke: {_reason_of(error)}.",
        why="What was sent last may or may not have been carried out.",
        remedy="Try again; every write of a migration can be repeated.",
    )


def silent(error: InterruptedConnectionError, target: Target) -> UnreachableError:
    """A connection that broke before it was ever of use, which is no reason to try it again."""
    remedy = "See whether it is a Redis, and whether it wants TLS, that is rediss:// in connection_url."
    if issubclass(target.connection_class, SSLConnection):
        remedy = "See whether it wants a certificate: name yours in redis_options.tls_cert_file and tls_key_file."
    return UnreachableError(
        f"What listens at {target.address} does not answer as a Redis does. {error.message}", remedy=remedy
    )


def unusable_mode(mode: str, target: Target) -> StoreError:
    if mode == "sentinel":
        return StoreError(
            f"{target.address} is a Redis Sentinel, which holds no data.", remedy="Name the primary that it watches."
        )
    if mode != "cluster":
        return StoreError(
            f"Redis at {target.address} is not a node of a cluster.",
            why="The migration file says redis_cluster: true.",
            remedy="Leave that out, or name a node of the cluster in connection_url.",
        )
    return StoreError(
        f"Redis at {target.address} is a node of a cluster, and clusters are not supported as AG-UI stores.",
        why="A node holds only part of the keys, so the others would be missed.",
        remedy="For a source of the type redis_keys set redis_cluster: true; otherwise use a server that is not clustered.",
    )


def connect_failure(error: Exception, target: Target, timeout: float | None) -> MigrationError:
    """What kept us from connecting. Only the type of a driver's exception is used, or a system error behind it."""
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(error, (redis_errors.AuthenticationError, redis_errors.AuthorizationError)):
        return _refused_login("WRONGPASS" if target.options.get("password") else "NOAUTH", target)
    if isinstance(error, redis_errors.BusyLoadingError):
        return error_reply("LOADING Redis is loading the dataset in memory", target)
    if isinstance(error, redis_errors.NoPermissionError):
        return error_reply("NOPERM it may not select the database", target)
    if isinstance(error, redis_errors.ResponseError):
        return StoreError(
            f"Redis at {target.address} refuses database {target.database} or the way to log in.",
            remedy="Correct the database number, or the user, in connection_url and redis_options.",
        )
    if isinstance(error, (redis_errors.TimeoutError, TimeoutError)):
        reason = f"no answer within {timeout:g} s" if timeout else "no answer"
    elif isinstance(cause, OSError):
        reason = _reason_of(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConnectionFailedError(
                f"Redis at {target.address} cannot be reached: {reason}.",
                remedy="Use the name that is in the certificate, or name its authority in redis_options.tls_ca_file.",
            )
    else:
        reason = "the connection was closed before the login was done"
    return UnreachableError(
        f"Redis at {target.address} cannot be reached: {reason}.", remedy="Start it, or correct connection_url."
    )


def _reason_of(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    return error.strerror or str(error) or type(error).__name__
