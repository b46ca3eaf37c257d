"""A checkpoint as it lies in the database, and what of it becomes a version.

Where a saver keeps what differs; both are brought here. A version's ``data`` are the channels' values. Its ``metadata`` is
the checkpoint's, with one member more, ``_langgraph``, for all that belongs to the checkpoint and has no place in a version
(the stores keep no unknown members of a version, but any metadata):

``thread_id``, ``checkpoint_ns``
    what the state's id is made of
``v``, ``channel_versions``, ``versions_seen``, ``updated_channels``, …
    the members of the checkpoint itself, beside its values, id and time
``pending_writes``
    what tasks have written that no later checkpoint has taken up: objects with ``task_id``, ``task_path``, ``idx``,
    ``channel`` and ``value``, in the order in which LangGraph applies them
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from agui_pipelines import documents
from agui_pipelines.ports import Place
from agui_pipelines.sources.langgraph.values import Typed, UnusableError, json_text, text_of, tree

OWN: Final = "_langgraph"
"""The member of a version's metadata that holds what else a checkpoint has."""
JSONB: Final = "jsonb"
"""The encoding of a checkpoint that PostgreSQL keeps as a document."""

_NAMESPACE: Final = "#ns="
_DELTA_COUNTERS: Final = "counters_since_delta_snapshot"


@dataclass(frozen=True, slots=True)
class Write:
    """One value that a task wrote, not yet taken up by a checkpoint. `checkpoint_id` if it is another one's."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: Typed
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint with all that belongs to it, as bytes. `blobs` are the channels that are stored on their own."""

    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str
    body: Typed
    metadata: bytes | None
    blobs: Mapping[str, Typed] = field(default_factory=dict)
    writes: Sequence[Write] = ()

    @property
    def state_id(self) -> str:
        return state_id(self.thread_id, self.namespace)


@dataclass(frozen=True, slots=True)
class Blob:
    """The value of a channel at one of its versions."""

    channel: str
    version: str
    value: Typed


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that belongs to no checkpoint that is there, such as what outlived a deleted one."""

    thread_id: str
    namespace: str
    what: Write | Blob


class Database(Protocol):
    """Where a saver keeps its checkpoints. Methods as in `ports.Scanner`."""

    def place(self) -> Place: ...
    def describe(self) -> str: ...
    def ping(self) -> str: ...
    def exists(self) -> bool: ...
    def close(self) -> None: ...

    def opened(self) -> AbstractContextManager[tuple[Iterator[Checkpoint], Iterator[Leftover]]]:
        """All checkpoints, and then all that belongs to none, as they are at one moment; one at a time is in memory.

        The checkpoints of a thread and namespace come together, the newest of them last.
        """
        ...


@dataclass(frozen=True, slots=True)
class Content:
    """What a checkpoint itself says: its time, its channels' values as a JSON object, and the rest as JSON text."""

    timestamp: str
    data: bytes
    metadata: Mapping[str, bytes]
    own: Mapping[str, bytes]


def state_id(thread_id: str, namespace: str) -> str:
    """The thread's id, and behind ``#ns=`` the namespace, if it has one.

    ``%`` and ``#`` are percent-encoded where there is a namespace, so that no two pairs share an id. A thread whose own id
    contains ``#ns=`` is written like one with a namespace, an empty one.
    """
    if not namespace and _NAMESPACE not in thread_id:
        return thread_id
    return _encoded(thread_id) + _NAMESPACE + _encoded(namespace)


def _encoded(text: str) -> str:
    return text.replace("%", "%25").replace("#", "%23")


def content(checkpoint: Checkpoint) -> Content:
    """What a checkpoint says, without its writes. Raises `UnusableError`; its detail is a sentence that names the channel."""
    members, values = _document(checkpoint) if checkpoint.body.encoding == JSONB else _value(checkpoint)
    for channel, blob in checkpoint.blobs.items():
        # A blob wins: of a channel that keeps changes, the document holds a mere mark that there is one.
        values[channel] = _of_channel(channel, json_text, blob)
    metadata = _metadata(checkpoint)
    timestamp = members.pop("ts", None)
    if not isinstance(timestamp, str):
        raise UnusableError("no_checkpoint", "The checkpoint has no time (ts).")
    if members.get("id") == checkpoint.checkpoint_id:
        del members["id"]
    own = {name: member if isinstance(member, bytes) else text_of(member) for name, member in members.items()}
    _require_values(metadata, own, values)
    return Content(timestamp, _object(values), metadata, own)


def metadata_of(checkpoint: Checkpoint, found: Content) -> bytes:
    """The metadata of the version, with the writes. Raises `UnusableError` like `content`."""
    own = {
        "thread_id": documents.dumps(checkpoint.thread_id),
        "checkpoint_ns": documents.dumps(checkpoint.namespace),
        **found.own,
        "pending_writes": b"[%b]" % b",".join(map(_write, checkpoint.writes)),
    }
    return _object({**found.metadata, OWN: _object(own)})


def _document(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Members (raw JSON text, but for time and id) and channel values of a checkpoint that is a JSON document."""
    try:
        members: dict[str, Any] = dict(documents.members(checkpoint.body.data or b""))
        values = documents.members(_absent(members.pop("channel_values", None)) or b"{}")
        members |= {name: documents.loads(members[name]) for name in ("ts", "id") if name in members}
    except ValueError:
        raise UnusableError("no_checkpoint", "The checkpoint is not an object with channel_values.") from None
    return members, values


def _absent(member: bytes | None) -> bytes | None:
    """A member that says null, as if it were not there."""
    return None if member == b"null" else member


def _value(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Members (not yet JSON) and channel values of a checkpoint that was serialised as a whole."""
    try:
        members = tree(checkpoint.body)
    except UnusableError as error:
        raise UnusableError(error.reason, f"The checkpoint is {error.detail}.") from None
    if not isinstance(members, dict) or not isinstance(members.get("channel_values"), dict):
        raise UnusableError("no_checkpoint", "The checkpoint is not an object with channel_values.")
    values = members.pop("channel_values")
    return members, {channel: _of_channel(channel, text_of, value) for channel, value in values.items()}


def _of_channel(channel: str, convert: Callable[[Any], bytes], value: Any) -> bytes:
    try:
        return convert(value)
    except UnusableError as error:
        raise UnusableError(error.reason, f"The channel {channel!r} holds {error.detail}.") from None


def _metadata(checkpoint: Checkpoint) -> dict[str, bytes]:
    try:
        metadata = documents.members(checkpoint.metadata) if checkpoint.metadata is not None else {}
    except ValueError:
        raise UnusableError("bad_metadata", "The checkpoint's metadata is not a JSON object.") from None
    if OWN in metadata:
        raise UnusableError("reserved_member", f"The checkpoint's metadata has a member {OWN!r} of its own.")
    return metadata


def _require_values(metadata: Mapping[str, bytes], own: Mapping[str, bytes], values: Mapping[str, bytes]) -> None:
    """Metadata tells which channels are stored as changes, and versions which of them have been written to at all."""
    counters, versions = (_names(of.get(name)) for of, name in ((metadata, _DELTA_COUNTERS), (own, "channel_versions")))
    changes = [channel for channel in counters if channel in versions and channel not in values]
    if changes:
        raise UnusableError(
            "delta_channel",
            f"The channel {changes[0]!r} is a DeltaChannel, of which only changes are stored here; "
            "its value is made from them by the graph's own reducer.",
        )


def _names(mapping: bytes | None) -> list[str]:
    """The members of what may be an object, or missing."""
    try:
        return list(documents.members(mapping or b"{}"))
    except ValueError:
        return []


def _write(write: Write) -> bytes:
    try:
        value = json_text(write.value)
    except UnusableError as error:
        detail = f"What the task {write.task_id} wrote to the channel {write.channel!r} holds {error.detail}."
        raise UnusableError(error.reason, detail) from None
    of = {"checkpoint_id": documents.dumps(write.checkpoint_id)} if write.checkpoint_id is not None else {}
    names = ("task_id", "task_path", "idx", "channel")
    return _object({**of, **{name: documents.dumps(getattr(write, name)) for name in names}, "value": value})


def _object(members: Mapping[str, bytes]) -> bytes:
    """A JSON object from the JSON text of its members."""
    return b"{%b}" % b",".join(b"%b:%b" % (documents.dumps(name), value) for name, value in members.items())


def raw(checkpoint: Checkpoint) -> bytes:
    """Everything that lies in the database, for a reject: JSON, the bytes in base64 beside the name of their encoding."""
    return documents.dumps(
        {
            "thread_id": checkpoint.thread_id,
            "checkpoint_ns": checkpoint.namespace,
            "checkpoint_id": checkpoint.checkpoint_id,
            "parent_checkpoint_id": checkpoint.parent_id,
            "checkpoint": _stored(checkpoint.body),
            "metadata": _stored(Typed("json", checkpoint.metadata)),
            "channels": {channel: _stored(blob) for channel, blob in checkpoint.blobs.items()},
            "writes": [_raw_write(write) for write in checkpoint.writes],
        }
    )


def raw_leftover(leftover: Leftover) -> bytes:
    """The same for what belongs to no checkpoint."""
    what = leftover.what
    own = _raw_write(what) if isinstance(what, Write) else {"channel": what.channel, "version": what.version}
    owner = {"thread_id": leftover.thread_id, "checkpoint_ns": leftover.namespace}
    return documents.dumps({**owner, **own, **_stored(what.value)})


def _raw_write(write: Write) -> dict[str, Any]:
    of = {"checkpoint_id": write.checkpoint_id} if write.checkpoint_id is not None else {}
    names = ("task_id", "task_path", "idx", "channel")
    return {**of, **{name: getattr(write, name) for name in names}, **_stored(write.value)}


def _stored(value: Typed) -> dict[str, str | None]:
    return {"type": value.encoding, "base64": None if value.data is None else b64encode(value.data).decode()}
