"""The one exception tree of the project.

::

    MigrationError                 whatever ends a migration on purpose; never shown as a traceback
    ├── UsageError                 the command line asks for something that makes no sense       (exit 2)
    ├── SpecError                  the migration file, or a store's configuration, is wrong      (exit 2)
    │   └── MissingVariableError   ``${NAME}`` names an environment variable that is not set
    ├── ConnectionFailedError      a server cannot be reached or refuses us                      (exit 1)
    │   ├── UnreachableError       nobody answers: a wrong address, or a server that is being restarted
    │   └── InterruptedConnectionError   it could, and went away: transient, worth a retry
    ├── StoreError                 a store answered, but cannot do what was asked                (exit 1)
    │   ├── StoreBusyError         lock or statement timeout, deadlock: transient, worth a retry
    │   │   └── SlotMovedError     a node of a Redis Cluster no longer owns the key
    │   ├── LockLostError          the target's lock is no longer ours: nothing more may be written
    │   └── UnstorableRecordError  the store cannot hold this record, ever
    ├── SourceError                a foreign source cannot be read to its end                    (exit 1)
    ├── StagingError               a snapshot, manifest or ledger is missing or damaged          (exit 1)
    ├── TransformError             a transform cannot be loaded, or broke                        (exit 1)
    ├── RefusedError               a check says no before anything is written                    (exit 3)
    │   ├── RejectLimitError       more records were rejected than the migration allows
    │   ├── CollisionError         two source records want the same target id
    │   ├── LossError              the target has no place for something that carries meaning
    │   ├── LockedError            another migration is writing to the target
    │   └── SamePlaceError         source and target are one place: a wrong configuration        (exit 2)
    ├── BackupError                what a store holds cannot be backed up, or was not restored   (exit 1)
    ├── HookError                  a command of the operator's failed                            (exit 1)
    ├── DecommissionError          what was to be deleted at the source is still there           (exit 1)
    ├── RollbackError              the target could not be put back after a failure              (exit 1)
    ├── CutoverError               a cutover failed, and was undone; or could not be             (exit 1)
    ├── WindowExceededError        a cutover took longer than it was given                       (exit 1)
    ├── ValidationFailedError      the target is not what was exported                           (exit 1)
    ├── AbortedError               somebody ended the run by a command                           (exit 130)
    ├── StoppedError               a worker gave up because another one failed                   (never shown)
    └── EmbeddedServerError        a server for demo or tests cannot be found or started         (exit 1)

Every error says what was found (``message``), why it matters (``why``) and what to do (``remedy``); its data lies on
attributes. Whether trying again can help is decided here, by ``transient``, where the error is defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class MigrationError(Exception):
    """What ends a phase on purpose. ``str()`` gives all three sentences on one line."""

    transient: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, why: str = "", remedy: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.remedy = remedy
        self.data = data

    def __str__(self) -> str:
        return " ".join(part for part in (self.message, self.why, self.remedy) if part)


class UsageError(MigrationError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class SpecError(MigrationError):
    """The migration file, or a store's configuration, is wrong."""

    exit_code = 2


class MissingVariableError(SpecError):
    """``${NAME}`` names an environment variable that is not set."""


class ConnectionFailedError(MigrationError):
    """A server cannot be reached, or refuses our credentials."""


class UnreachableError(ConnectionFailedError):
    """Nobody answers there, or not as a server of that kind does: no use to try again before it was ever reached."""


class InterruptedConnectionError(ConnectionFailedError):
    """A connection that worked went away in the middle of something."""

    transient = True


class StoreError(MigrationError):
    """A store answered, but cannot do what was asked."""


class StoreBusyError(StoreError):
    """A lock or statement timeout, or a deadlock: the same call may go through later."""

    transient = True


class SlotMovedError(StoreBusyError):
    """A node of a Redis Cluster no longer owns a key, or is about to give it away: ask another one."""


class LockLostError(StoreError):
    """The target's lock expired or was taken over: nothing of ours may be written to it any more."""


class UnstorableRecordError(StoreError):
    """The store cannot hold this record, whatever is tried."""


class SourceError(MigrationError):
    """A foreign source cannot be read to its end, or is not what the migration file says."""


class StagingError(MigrationError):
    """A snapshot, a manifest or the ledger is missing or damaged."""


class TransformError(MigrationError):
    """A transform cannot be loaded, or broke on a record in a way that is not the record's fault."""


class RefusedError(MigrationError):
    """A check says no before this run has written anything to the target."""

    exit_code = 3


class RejectLimitError(RefusedError):
    """More records were rejected than ``limits.max_rejects`` allows."""


class LossError(RefusedError):
    """The target has no place for something that carries meaning, and the migration file does not accept its loss."""


class LockedError(RefusedError):
    """Another migration is writing to the target."""


class CollisionError(RefusedError):
    """Two source records want the same id in the target."""


class SamePlaceError(RefusedError):
    """Source and target are one place."""

    exit_code = 2


class CutoverError(MigrationError):
    """A cutover failed and was undone, or could not be undone."""


class WindowExceededError(MigrationError):
    """A cutover took longer than it was given."""


class ValidationFailedError(MigrationError):
    """The target is not what was exported."""


class BackupError(MigrationError):
    """What a store holds cannot be backed up, or is not as it was after it was restored."""


class HookError(MigrationError):
    """A command of the operator's could not be started, failed, or took too long."""


class DecommissionError(MigrationError):
    """What was to be deleted at the source is still there, as it was."""


class RollbackError(MigrationError):
    """After a failure, the target could not be put back as it was."""


class EmbeddedServerError(MigrationError):
    """A server for the demo or the tests cannot be found, or does not start."""


class AbortedError(MigrationError):
    """Somebody ended the run by ``agui-migrate control``. It is kept to be resumed, as one that was interrupted."""

    exit_code = 130


class StoppedError(MigrationError):
    """A worker gave up because another one failed or the run was interrupted; the reason is raised elsewhere."""


def named(ids: Sequence[str], *, limit: int = 5) -> str:
    """The first ids, quoted, and how many more there are: ``'a', 'b' and 7 more``."""
    shown = ", ".join(repr(i) for i in ids[:limit])
    rest = len(ids) - limit
    return f"{shown} and {rest:,} more" if rest > 0 else shown
