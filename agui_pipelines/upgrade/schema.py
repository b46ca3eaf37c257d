"""Schema migrations: the user's own changes of documents, numbered, in the folder ``migrations`` beside the migration file.

``0003_rename_theme.py`` or ``0003_rename_theme.json`` holds what is done (see `transforms.schema_migration`). Each is applied
once to a store, in the order of the numbers. Those that are due are applied together, by one migration of the store in
place (see `phases.in_place`) with its backup, its proof and its resuming; it has a workspace of its own,
``<workspace>/<name>.schema``.

The store records what was applied to it, with the checksum of each file, so that one that was edited later is told. Before
the first document is changed it also records what is being applied, so that nobody begins anew in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson

from agui_pipelines.errors import (
    MigrationError,
    RefusedError,
    RejectLimitError,
    RollbackError,
    SpecError,
    UsageError,
    named,
)
from agui_pipelines.ledger import Entry
from agui_pipelines.phases.export import export
from agui_pipelines.phases.import_ import import_
from agui_pipelines.phases.plan import Plan, is_open, plan
from agui_pipelines.phases.preview import preview
from agui_pipelines.phases.rollback import Aftermath, after_failure
from agui_pipelines.phases.session import End, Session
from agui_pipelines.phases.standing import BEGUN as IMPORT_BEGUN
from agui_pipelines.phases.standing import RESTORE, RESTORE_BEGUN, standing
from agui_pipelines.phases.transform import transform
from agui_pipelines.phases.validate import ValidationReport, require_passed, validate
from agui_pipelines.ports import Store
from agui_pipelines.records import Kind
from agui_pipelines.spec import ForeignConfig, Migration
from agui_pipelines.staging.workspace import new_id
from agui_pipelines.transforms.schema_migration import Direction, checksum, directions, load
from agui_pipelines.upgrade.survey import require_store

FOLDER: Final = "migrations"
BEGUN: Final = "schema_begun"
DONE: Final = "schema_done"
_NAME: Final = re.compile(r"(\d+)_([A-Za-z0-9][A-Za-z0-9_-]*)\.(py|json)")
_LIKE_ONE: Final = re.compile(r"\d.*\.(py|json)")

_BY_ROLLBACK: Final = " To undo it: agui-migrate rollback"
_FRESH: Final = " with --fresh"
"""Parts of what the phases advise, which a schema migration has no use for: it is begun anew by itself."""

State = Literal["applied", "pending", "edited", "missing"]


@dataclass(frozen=True, slots=True)
class Change:
    """One numbered migration: its file."""

    number: int
    name: str
    """The file's name."""
    checksum: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What a store has recorded of one."""

    number: int
    name: str
    checksum: str
    at: str = ""
    """RFC 3339, UTC."""


@dataclass(frozen=True, slots=True)
class Applying:
    """What is being applied to a store, or was when somebody was killed."""

    batch: str
    direction: Direction
    numbers: tuple[int, ...]
    workspace: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What a store has recorded of its schema migrations."""

    applied: tuple[Applied, ...] = ()
    applying: Applying | None = None

    @classmethod
    def of(cls, store: Store) -> Record:
        """Raises `RefusedError` for a record that is damaged."""
        text = store.applied()
        if text is None:
            return cls()
        try:
            values = orjson.loads(text)
            applying = values.get("applying")
            found = cls(
                tuple(Applied(**each) for each in values["applied"]),
                None if applying is None else Applying(**{**applying, "numbers": tuple(applying["numbers"])}),
            )
            found.require_sound()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RefusedError(
                f"What {store.describe()} has recorded of its schema migrations is damaged: {error}.",
                why="Which of them were applied decides what has to be done; to apply one twice would do harm.",
                remedy="Restore a backup of the whole store, or mend the record (SCHEMA.json, meta:schema or ag_meta).",
            ) from error
        return found

    def require_sound(self) -> None:
        """Raises `ValueError` for values that are none, whoever wrote them."""
        numbers = [each.number for each in self.applied]
        if any(type(n) is not int for n in (*numbers, *(self.applying.numbers if self.applying else ()))):
            raise ValueError("a number is none")
        if len(set(numbers)) != len(numbers):
            raise ValueError("a number comes twice")
        if any(not isinstance(text, str) for each in self.applied for text in (each.name, each.checksum, each.at)):
            raise ValueError("a name or a checksum is no text")
        if self.applying and self.applying.direction not in get_args(Direction):
            raise ValueError(f"there is no direction '{self.applying.direction}'")

    def to_json(self) -> bytes:
        return orjson.dumps(
            {"applied": [asdict(each) for each in self.applied], "applying": self.applying and asdict(self.applying)}
        )

    def checksum_of(self, number: int) -> str | None:
        return next((each.checksum for each in self.applied if each.number == number), None)


@dataclass(frozen=True, slots=True)
class Status:
    """One line of `status`."""

    number: int
    name: str
    state: State
    at: str = ""


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """What was applied, or taken back, or would be."""

    place: str
    direction: Direction
    changes: tuple[Change, ...]
    changed: int = 0
    """Records whose document became another one."""
    records: dict[str, int] = field(default_factory=dict)
    plan_id: str = ""
    dry_run: bool = False
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The report's public form."""
        return {
            "store": self.place,
            "direction": self.direction,
            "migrations": [{"number": each.number, "name": each.name} for each in self.changes],
            "changed": self.changed,
            "records": self.records,
            "plan_id": self.plan_id or None,
            "dry_run": self.dry_run,
            "resumed": self.resumed,
        }


@dataclass(frozen=True)
class Schema:
    """The schema migrations of one store: that at one end of a migration file."""

    session: Session
    end: End = "target"

    @property
    def folder(self) -> Path:
        return self.session.migration.folder / FOLDER

    def status(self) -> tuple[list[Status], Applying | None]:
        """Every migration that there is or was, in order; and what is being applied. Raises `SpecError`."""
        with self._session([]).target() as store:
            record = Record.of(store)
        files = {each.number: each for each in found(self.folder)}
        applied = {each.number: each for each in record.applied}
        lines = []
        for number in sorted({*files, *applied}):
            one, was = files.get(number), applied.get(number)
            state: State = "pending"
            if was is not None:
                state = "missing" if one is None else "applied" if one.checksum == was.checksum else "edited"
            lines.append(Status(number, one.name if one else was.name if was else "", state, was.at if was else ""))
        return lines, record.applying

    def up(self, to: int | None = None, *, dry_run: bool = False) -> SchemaReport:
        """Apply what was not applied yet, up to the number `to`. A dry run finds out what would change, and writes nothing.

        Raises `RefusedError` for a file that was edited after it was applied, and for one that comes before such; whatever a
        migration raises; and `SpecError` for files that cannot be used.
        """
        return self._run("up", to, dry_run=dry_run)

    def down(self, to: int | None = None, *, dry_run: bool = False) -> SchemaReport:
        """Take back the newest, or all that come after the number `to`. Raises as `up`."""
        return self._run("down", to, dry_run=dry_run)

    def _run(self, direction: Direction, to: int | None, *, dry_run: bool) -> SchemaReport:
        files = found(self.folder)
        session = self._session([])
        require_store(session, "target")
        if dry_run:
            with session.target() as store:
                record = Record.of(store)
            self._require_none_applying(record)
            return self._previewed(direction, chosen(direction, files, record, to))
        with session.exclusive():
            with session.target() as store:
                record, place = Record.of(store), store.describe()
            if record.applying is not None and self._is_begun(session, record.applying):
                return self._finish(session, files, record, record.applying, direction)
            record = replace(record, applying=None)
            changes = chosen(direction, files, record, to)
            if not changes:
                return SchemaReport(place, direction, ())
            _require_usable(self.folder, self.session.migration.folder, changes, direction)
            _forget_what_was_written(session)
            numbers = tuple(each.number for each in changes)
            applying = Applying(new_id("schema"), direction, numbers, str(session.workspace), _now())
            return self._apply(changes, replace(record, applying=applying), applying)

    def _is_begun(self, session: Session, applying: Applying) -> bool:
        """Whether what was killed may have written, so that it has to be finished. Only who began it knows.

        If it was found wrong, and putting it back failed, that is done now. Raises `RefusedError` if it was begun elsewhere.
        """
        ledger = session.ledger
        if ledger.last(BEGUN, basis=applying.batch) is None:
            self._require_none_applying(Record(applying=applying))
        if ledger.last(IMPORT_BEGUN, since=(BEGUN,)) is None:
            return False
        now, newest = standing(ledger), ledger.last("plan")
        if newest is None or newest.plan_id in now.proven or is_open(ledger, newest.plan_id):
            return True
        if newest.plan_id in now.written:
            _put_back(self._session([], run_id=applying.batch), applying)
        return newest.plan_id in standing(ledger).written

    def _finish(
        self, session: Session, files: Sequence[Change], record: Record, applying: Applying, direction: Direction
    ) -> SchemaReport:
        """Take up what was killed."""
        known = session.ledger.last(BEGUN, basis=applying.batch)
        if applying.direction != direction:
            raise RefusedError(
                f"Schema migrations are being applied in the other direction: {_told(applying)}.",
                why="The store may be half rewritten.",
                remedy=f"Finish that first: agui-migrate schema {applying.direction}.",
            )
        checksums: dict[str, str] = known.outputs["checksums"] if known is not None else {}
        by_number = {each.number: each for each in files}
        changed = [n for n in applying.numbers if n not in by_number or by_number[n].checksum != checksums.get(str(n))]
        if changed:
            raise RefusedError(
                f"The files of the schema migrations {', '.join(map(str, changed))} were edited or removed while they were "
                "being applied.",
                why="Part of the store was changed by what they were.",
                remedy="Put the files back as they were, and run the same command again.",
            )
        return self._apply([by_number[n] for n in applying.numbers], record, applying, resumed=True)

    def _apply(
        self, changes: Sequence[Change], record: Record, applying: Applying, *, resumed: bool = False
    ) -> SchemaReport:
        session = self._session(changes, applying.direction, run_id=applying.batch)
        if not resumed:
            checksums = {str(each.number): each.checksum for each in changes}
            session.ledger.record(Entry(BEGUN, "", basis=applying.batch, outputs={"checksums": checksums}))
            with session.target() as store:
                store.set_applied(record.to_json())
        report = self._proven(session) if resumed else None
        if report is None:
            report = self._migrated(session, record, fresh=not resumed)
        applied = {each.number: each for each in record.applied}
        for each in changes:
            applied.pop(each.number, None)
            if applying.direction == "up":
                applied[each.number] = Applied(each.number, each.name, each.checksum, _now())
        with session.target() as store:
            store.set_applied(Record(tuple(applied[n] for n in sorted(applied))).to_json())
            place = store.describe()
        outputs = {"direction": applying.direction, "numbers": list(applying.numbers), "plan_id": report["plan_id"]}
        session.ledger.record(Entry(DONE, report["plan_id"], basis=applying.batch, outputs=outputs))
        return SchemaReport(
            place,
            applying.direction,
            tuple(changes),
            report["changed"],
            report["records"],
            report["plan_id"],
            resumed=resumed,
        )

    def _proven(self, session: Session) -> dict[str, Any] | None:
        """What a run that was killed had proven, so that nothing is left to do but to record it."""
        since = session.ledger.entries(since=(BEGUN,))
        proven = standing(session.ledger).proven
        plans = [e.plan_id for e in since if e.phase == "plan" and e.plan_id in proven]
        return _summary(session, plans[-1]) if plans else None

    def _migrated(self, session: Session, record: Record, *, fresh: bool) -> dict[str, Any]:
        """Run the phases. What failed is put back as it was, and the store no longer says that something is being applied."""
        try:
            made = _planned(session, fresh=fresh)
            import_(session, made, [each.name for each in made.ranges])
            report: ValidationReport = validate(session, made)
            require_passed(report)
        except MigrationError as error:
            self._after(session, record, error)
            raise
        return _summary(session, made.plan_id)

    def _after(self, session: Session, record: Record, error: MigrationError) -> None:
        # A session of its own: the failed one's workers have been told to stop.
        again = Session.open(session.migration, session.listener, session.heartbeat, session.run_id)
        assert record.applying is not None  # noqa: S101 - by `_apply`
        try:
            aftermath = _put_back(again, record.applying)
        except RollbackError as second:
            second.why = f"{second.why} What had failed: {error.message}".lstrip()
            raise
        error.why = f"{error.why} {aftermath.sentence}".lstrip().replace(_BY_ROLLBACK, "")
        error.remedy = error.remedy.replace(_FRESH, "")
        if isinstance(error, RejectLimitError):
            error.remedy = (
                "Mend those documents, or have the schema migration leave them as they are, and run it again."
            )
        if aftermath.status in ("nothing_written", "rolled_back"):
            with again.target() as store:
                store.set_applied(replace(record, applying=None).to_json() if record.applied else None)

    def _previewed(self, direction: Direction, changes: Sequence[Change]) -> SchemaReport:
        with self._session([]).target() as store:
            place = store.describe()
        if not changes:
            return SchemaReport(place, direction, (), dry_run=True)
        _require_usable(self.folder, self.session.migration.folder, changes, direction)
        session = self._session(changes, direction)
        made = _planned(session, fresh=True, dry_run=True)
        seen = preview(session, made)
        summary = _summary(session, made.plan_id)
        changed = sum(seen.overwrite.values())
        return SchemaReport(place, direction, tuple(changes), changed, summary["records"], made.plan_id, dry_run=True)

    def _session(self, changes: Sequence[Change], direction: Direction = "up", run_id: str = "") -> Session:
        """A migration of the store in place by these changes."""
        migration = self.session.migration
        steps = [{"schema_migration": {"file": f"{FOLDER}/{each.name}", "direction": direction}} for each in changes]
        return Session.open(
            in_place(migration, self.end, steps), self.session.listener, self.session.heartbeat, run_id=run_id
        )

    def _require_none_applying(self, record: Record) -> None:
        if record.applying is not None:
            raise RefusedError(
                f"Schema migrations are being applied to this store: {_told(record.applying)}.",
                why="It may be half rewritten, so to begin anew could change documents twice.",
                remedy=f"Finish it where it was begun (workspace {record.applying.workspace}): agui-migrate schema "
                f"{record.applying.direction}. If that workspace is lost, restore a backup of the whole store.",
            )


def in_place(migration: Migration, end: End, steps: Sequence[dict[str, Any]]) -> Migration:
    """The migration of the store at one end by these transforms. Raises `UsageError` if it is no AG-UI store."""
    config = migration.target if end == "target" else migration.source
    if isinstance(config, ForeignConfig):
        raise UsageError(
            f"The source is of the type {config.type}, which is no AG-UI store.",
            why="Schema migrations are recorded in the store that they are applied to.",
            remedy="Use --of target, or transforms in the migration file.",
        )
    suffix = ".schema" if end == "target" else ".schema-source"
    return migration.rewriting(config, end, migration.name[: 100 - len(suffix)] + suffix, steps)


def found(folder: Path) -> list[Change]:
    """The migrations in a folder, in order. Raises `SpecError` for a name that is none, and for a number that comes twice."""
    if not folder.is_dir():
        return []
    changes: dict[int, Change] = {}
    for file in sorted(folder.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match is None:
            if _LIKE_ONE.fullmatch(file.name):
                raise SpecError(
                    f"{file} is no name of a schema migration.",
                    remedy="Name it like 0003_rename_theme.py or 0003_rename_theme.json.",
                )
            continue
        number = int(match[1])
        if number in changes:
            raise SpecError(
                f"Two schema migrations have the number {number}: {changes[number].name} and {file.name}.",
                why="They are applied in the order of their numbers.",
                remedy="Give one of them another number.",
            )
        try:
            changes[number] = Change(number, file.name, checksum(file.read_bytes()))
        except OSError as error:
            raise SpecError(f"The schema migration {file} cannot be read: {error.strerror}.") from error
    return [changes[number] for number in sorted(changes)]


def chosen(direction: Direction, files: Sequence[Change], record: Record, to: int | None) -> list[Change]:
    """Which are to be applied, in which order. Raises `RefusedError` or `UsageError`."""
    _require_order(files, record)
    numbers = {each.number for each in files} | {each.number for each in record.applied} | {0}
    if to is not None and to not in numbers:
        raise UsageError(f"--to is {to}, and there is no schema migration of that number.")
    applied = [each.number for each in record.applied]
    if direction == "up":
        due = [each for each in files if each.number not in applied]
        return [each for each in due if to is None or each.number <= to]
    back = [n for n in reversed(applied) if n > to] if to is not None else applied[-1:]
    by_number = {each.number: each for each in files}
    gone = [str(n) for n in back if n not in by_number]
    if gone:
        raise RefusedError(
            f"The files of the schema migrations {', '.join(gone)} are not there any more.",
            why="What takes them back is written in them.",
            remedy="Put the files back.",
        )
    return [by_number[n] for n in back]


def _require_order(files: Sequence[Change], record: Record) -> None:
    edited = [each.name for each in files if record.checksum_of(each.number) not in (None, each.checksum)]
    if edited:
        raise RefusedError(
            f"Schema migrations were edited after they were applied: {named(edited)}.",
            why="The store was changed by what they were, and will not be changed by what they are.",
            remedy="Put the files back as they were, and write the rest of the change as a new migration.",
        )
    newest = max((each.number for each in record.applied), default=-1)
    late = [each.name for each in files if each.number < newest and record.checksum_of(each.number) is None]
    if late:
        raise RefusedError(
            f"Schema migrations are numbered before one that was applied already: {named(late)}.",
            why=f"They are applied in the order of their numbers, and {newest} was applied.",
            remedy=f"Give them numbers above {newest}; or take back what was applied: agui-migrate schema down.",
        )


def _require_usable(folder: Path, base: Path, changes: Sequence[Change], direction: Direction) -> None:
    """Raises `SpecError` for a file that cannot be used, and `RefusedError` for what cannot be taken back."""
    for each in changes:
        load(folder / each.name, base, "up")
    lacking = [each.name for each in changes if direction not in directions(folder / each.name, base)]
    if lacking:
        raise RefusedError(
            f"These schema migrations have no 'down', so they cannot be taken back: {named(lacking)}.",
            why="How the documents were before is not known.",
            remedy="Write a 'down'; its file then counts as edited, so restore a backup instead if the change must go.",
        )


def _planned(session: Session, *, fresh: bool, dry_run: bool = False) -> Plan:
    made = plan(session, purpose="dry_run" if dry_run else "migrate", fresh=fresh)
    names = [each.name for each in made.ranges]
    export(session, made, names)
    transform(session, made, names)
    return made


def _summary(session: Session, plan_id: str) -> dict[str, Any]:
    """What a plan came to, from the ledger: its records by kind, and how many of them were changed."""
    records: dict[str, int] = dict.fromkeys(map(str, Kind), 0)
    newest = {e.unit: e.outputs for e in session.ledger.entries(phase="transform", plan_id=plan_id)}
    for outputs in newest.values():
        for kind, count in outputs["records"].items():
            records[kind] += count
    imports = {e.unit: e.outputs for e in session.ledger.entries(phase="import", plan_id=plan_id)}
    changed = sum(outputs["updated"] + outputs["inserted"] for outputs in imports.values())
    return {"plan_id": plan_id, "records": records, "changed": changed}


def _put_back(session: Session, applying: Applying) -> Aftermath:
    """As `after_failure`, but what to do about a failure is to run the same command again."""
    try:
        return after_failure(session, applying.batch)
    except RollbackError as error:
        error.remedy = f"Mend what stands in the way, then: agui-migrate schema {applying.direction}"
        raise


def _forget_what_was_written(session: Session) -> None:
    """Before a batch that is begun anew: whatever an earlier one may have half written is not there any more.

    The store would say that it is being applied. As it does not, it was put back as a whole by somebody else.
    """
    if standing(session.ledger).written:
        for phase in (RESTORE_BEGUN, RESTORE):
            session.ledger.record(Entry(phase, "", "elsewhere"))


def _told(applying: Applying) -> str:
    return f"{applying.direction} {', '.join(map(str, applying.numbers))}, since {applying.at}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
