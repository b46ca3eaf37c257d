"""Users' own readers and transformers, beside the migration file or in an installed package."""

from __future__ import annotations

import sys
import textwrap
from contextlib import closing

import pyarrow as pa
import pytest

from agui_pipelines.errors import SourceError, SpecError
from agui_pipelines.sources.custom import DataReader, DataTransformer

READER = """
    import datetime as dt
    from decimal import Decimal
    from agui_pipelines.sources.custom import Record

    closed = []

    class Reader:
        def __init__(self, count=1, **others):
            self.count, self.others = count, others

        def __iter__(self):
            for i in range(self.count):
                yield Record(f"r{i}", {"n": Decimal("1.50"), "i": i, **self.others})

        def close(self):
            closed.append(self)

    class Transformer:
        def __init__(self, prefix=""):
            self.prefix = prefix

        def transform(self, record):
            if record.data["i"] == 1:
                raise LookupError("no such thing")
            return self.prefix + record.id, record.data
"""


@pytest.fixture
def module(tmp_path):
    """Writes the user's module `legacy` beside the migration file."""

    def write(text: str) -> None:
        (tmp_path / "legacy.py").write_text(textwrap.dedent(text))

    yield write
    sys.modules.pop("legacy", None)


def test_records_become_states_and_a_failing_one_is_rejected_by_name(scan, module):
    module(READER)
    found = scan(
        type="custom",
        reader="legacy:Reader",
        transformer="legacy:Transformer",
        options={"count": 3, "big": 10**40},
        transformer_options={"prefix": "x-"},
    )
    big = b"1" + b"0" * 40
    assert found.documents == {f"x-r{i}": b'{"n":1.50,"i":%d,"big":%b}' % (i, big) for i in (0, 2)}
    assert found.rejected == [(b"r1", "transformer_failed", b'{"n":1.50,"i":1,"big":%b}' % big)]
    assert found.rejects[0].detail == "record 2: The transformer raised LookupError: no such thing"
    assert len(sys.modules["legacy"].closed) == 1


def test_reader_and_transformer_share_their_modules(scan, tmp_path):
    package = tmp_path / "legacy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shapes.py").write_text("class Order: pass\n")
    (package / "reading.py").write_text(
        "from agui_pipelines.sources.custom import Record\nfrom legacy.shapes import Order\n"
        "def read():\n    yield Record('a', Order())\n"
    )
    (package / "shaping.py").write_text(
        "from legacy.shapes import Order\n"
        "def shape(record):\n    return record.id, {'order': isinstance(record.data, Order)}\n"
    )
    try:
        found = scan(type="custom", reader="legacy.reading:read", transformer="legacy.shaping:shape")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "legacy"]:
            del sys.modules[name]
    assert found.documents == {"a": b'{"order":true}'}


def test_the_protocols_are_those_of_the_example(module, tmp_path, monkeypatch):
    module(READER)
    monkeypatch.syspath_prepend(tmp_path)
    legacy = __import__("legacy")
    assert isinstance(legacy.Reader(), DataReader)
    assert isinstance(legacy.Transformer(), DataTransformer)


def test_functions_will_do_and_json_text_is_carried_as_it_is(scan, module):
    module("""
        from agui_pipelines.sources.custom import Record

        def read(texts):
            for i, text in enumerate(texts):
                yield Record(str(i), text)

        def shape(record, prefix):
            return prefix + record.id, record.data if record.id == "0" else record.data.encode()
    """)
    texts = ['{"n": 1e400}', '{"a":1,"a":2}']
    plain = scan(type="custom", reader="legacy:read", options={"texts": texts})
    assert plain.documents == {str(i): text.encode() for i, text in enumerate(texts)}
    shaped = scan(
        type="custom",
        reader="legacy:read",
        options={"texts": texts},
        transformer="legacy:shape",
        transformer_options={"prefix": "p"},
    )
    assert shaped.documents == {f"p{i}": text.encode() for i, text in enumerate(texts)}


def test_times_in_the_metadata_are_understood(scan, module):
    module("""
        import datetime as dt
        from agui_pipelines.sources.custom import Record

        def read():
            moment = dt.datetime(2024, 1, 1, 12, 0, 0, 500000, tzinfo=dt.timezone(dt.timedelta(hours=2)))
            yield Record("a", {}, {"created_at": moment, "updated_at": "2024-01-01 10:00:00", "expires_at": 4102444800.5})
            yield Record("b", {}, {"created_at": "the other day", "expires_at": moment})
            yield Record("c", {}, {"expires_at": "the other day"})
            yield Record("d", {}, {"created_at": "\\udcff"})
    """)
    found = scan(type="custom", reader="legacy:read")
    assert [(r["state_id"], r["created_at"], r["updated_at"]) for r in found.rows] == [
        ("a", "2024-01-01T12:00:00.5+02:00", "2024-01-01T10:00:00Z"),
        ("b", "the other day", None),
    ]
    [batch] = found.batches
    assert batch.column("expires_at").cast(pa.int64()).to_pylist() == [4_102_444_800_500, 1_704_103_200_500]
    assert found.rejected == [(b"c", "bad_expiry", b"{}"), (b"d", "not_utf8", b"{}")]


@pytest.mark.parametrize(
    ("made", "name", "reason"),
    [
        ('"a", [1]', b"key", "not_an_object"),
        ("None", b"key", "transformer_failed"),
        ('{"just": "a document"}', b"key", "transformer_failed"),
        ("None, {}", b"key", "no_id"),
        ('"\\ud800", {}', b"key", "id_not_utf8"),
        ('"a", {"x": object()}', b"key", "unsupported_value"),
        ('"a", {1: 2}', b"key", "unsupported_value"),
        ('exit("bye")', b"key", "transformer_failed"),
        ('"a", nested', b"key", "unsupported_value"),
    ],
)  # fmt: skip
def test_what_is_no_state_rejects_the_record(scan, module, made, name, reason):
    module(f"""
        from agui_pipelines.sources.custom import Record

        nested = {{}}
        for _ in range(100_000):
            nested = {{"x": nested}}

        def read():
            yield Record("key", b"\\xff as it was")
            yield Record("fine", b"")

        def shape(record):
            if record.id == "fine":
                return "fine", {{}}
            return {made}
    """)
    found = scan(type="custom", reader="legacy:read", transformer="legacy:shape")
    assert found.documents == {"fine": b"{}"}
    assert found.rejected == [(name, reason, b"\xff as it was")]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise OSError('gone')", r"'legacy:read' broke after 0 records: OSError: gone"),
        ("yield good; raise OSError('gone')", r"broke after 1 records: OSError: gone"),
        ("yield good; exit(3)", r"broke after 1 records: SystemExit: 3"),
        ("yield good; yield {'id': 1}", r"yielded dict as its record 2"),
        ("return 7", r"broke after 0 records: TypeError"),
    ],
)
def test_a_reader_that_breaks_ends_the_scan(scan, module, body, message):
    module(f"""
        from agui_pipelines.sources.custom import Record
        good = Record("a", {{}})

        def read():
            {body}
    """)
    with pytest.raises(SourceError, match=message):
        scan(type="custom", reader="legacy:read")


def test_a_reader_is_closed_even_if_it_breaks(scan, module):
    module("""
        closed = []

        class Reader:
            def __iter__(self):
                raise OSError("gone")
            def close(self):
                closed.append(self)
    """)
    with pytest.raises(SourceError, match="gone"):
        scan(type="custom", reader="legacy:Reader")
    assert len(sys.modules["legacy"].closed) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reader": "legacy:Missing"}, "legacy has no function 'Missing'"),
        ({"reader": "nowhere:Reader"}, "there is no module 'nowhere'"),
        (
            {"reader": "unregistered"},
            "There is no reader 'unregistered'; known in the entry points agui_pipelines.readers",
        ),
        ({"reader": "legacy:Reader", "transformer": "unregistered"}, "There is no transformer 'unregistered'"),
    ],
)
def test_code_that_is_not_there_is_the_migration_files_fault(opened, module, options, message):
    module(READER)
    with pytest.raises(SpecError, match=message):
        opened(type="custom", **options).ping()


def test_a_transformer_that_cannot_be_made_ends_the_scan(scan, module):
    module(READER)
    with pytest.raises(SourceError, match="cannot be made: TypeError"):
        scan(
            type="custom",
            reader="legacy:Reader",
            transformer="legacy:Transformer",
            transformer_options={"unknown": 1},
        )


def test_an_installed_package_registers_its_reader_by_name(scan, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    package = site / "acme_sessions"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "agui.py").write_text(textwrap.dedent(READER))
    info = site / "acme_sessions-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-sessions\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[agui_pipelines.readers]\nacme = acme_sessions.agui:Reader\n"
        "[agui_pipelines.transformers]\nacme = acme_sessions.agui:Transformer\n"
    )
    monkeypatch.syspath_prepend(site)
    found = scan(type="custom", reader="acme", transformer="acme", options={"count": 2})
    assert list(found.documents) == ["r0"]
    assert [r.id for r in found.rejects] == [b"r1"]


def test_options_are_no_part_of_the_description(opened, module):
    module(READER)
    source = opened(type="custom", reader="legacy:Reader", transformer="legacy:Transformer", options={"key": "c4n4ry"})
    told = (source.describe(), str(source.place()), source.ping(), repr(source))
    assert "c4n4ry" not in "".join(told)
    assert source.describe() == "records of legacy:Reader through legacy:Transformer"


def test_the_fingerprint_follows_the_users_code(opened, module):
    module(READER)
    before = opened(type="custom", reader="legacy:Reader").fingerprint
    assert opened(type="custom", reader="legacy:Reader").fingerprint == before
    module(READER + "\n    # mended\n")
    assert opened(type="custom", reader="legacy:Reader").fingerprint != before


def test_no_more_than_a_batch_is_in_flight(opened, module):
    module("""
        from agui_pipelines.sources.custom import Record

        yielded = 0

        def read(count):
            global yielded
            for i in range(count):
                yielded += 1
                yield Record(f"{i:06}", {"text": "x" * 100})
    """)
    taken, ahead = 0, 0
    with closing(opened(type="custom", reader="legacy:read", options={"count": 100_000})) as source:
        for _, batch in source.scan(pytest.fail):
            taken += batch.num_rows
            ahead = max(ahead, sys.modules["legacy"].yielded - taken)
    assert taken == 100_000
    assert ahead <= 1
