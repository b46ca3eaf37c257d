from __future__ import annotations

import pyarrow as pa

from agui_pipelines.losses import (
    EXAMPLES,
    FORM,
    MEANING,
    Fate,
    fates,
    lost,
    present,
    probe,
    route,
    table,
    together,
    unaccepted,
)
from agui_pipelines.records import Kind


def test_the_probe_has_every_property() -> None:
    found = {name for kind, batch in probe().items() for name in present(kind, batch)}
    assert found == {*MEANING, *FORM}


def test_a_target_that_loses_nothing_keeps_everything_and_one_that_loses_all_loses_all() -> None:
    assert set(route(lambda _kind, _batch: {}, ()).values()) == {"kept"}
    verdicts = route(present, ("expiry",))
    assert verdicts.pop("expiry") == "encoded"
    assert set(verdicts.values()) == {"lost"}
    assert list(route(present, ())) == [*MEANING, *FORM]


def test_fates_count_rows_and_name_the_first_that_do_not_keep_a_property() -> None:
    batch = pa.RecordBatch.from_pydict({"state_id": [f"s{i}" for i in range(30)]})
    every, none = pa.array([True] * 30), pa.array([False] * 30)
    some = pa.array([i % 2 == 0 for i in range(30)])
    found = fates(batch, {"expiry": every, "history": some}, {"expiry": some, "history": none}, {})
    assert found["expiry"] == Fate(30, 0, 15, tuple(f"s{i}" for i in range(0, 2 * EXAMPLES, 2)))
    assert found["history"] == Fate(15, 0, 0, ())


def test_fates_of_several_batches_add_up_and_name_no_more_examples() -> None:
    one = {"expiry": Fate(3, 1, 2, ("a", "b", "c"))}
    assert together([one, {"layout": Fate(1)}, one]) == {
        "expiry": Fate(6, 2, 4, ("a", "b", "c", "a", "b", "c")),
        "layout": Fate(1),
    }
    assert len(together([one] * 9)["expiry"].examples) == EXAMPLES


def test_only_meaning_that_is_lost_and_not_accepted_blocks() -> None:
    found = {"expiry": Fate(2, 0, 2), "timestamps": Fate(2, 2, 0), "history": Fate(9), "layout": Fate(9, 0, 9)}
    assert unaccepted(found, ()) == {"expiry": Fate(2, 0, 2)}
    assert unaccepted(found, ("expiry",)) == {}
    assert lost(found) == {"expiry": 2}
    assert [
        (row["property"], row["carries"], row["verdict"], row["accepted"]) for row in table(found, ("expiry",))
    ] == [
        ("expiry", "meaning", "lost", True),
        ("timestamps", "meaning", "encoded", None),
        ("history", "meaning", "kept", None),
        ("layout", "form", "lost", None),
    ]


def test_every_kind_of_record_has_a_probe() -> None:
    assert list(probe()) == list(Kind)
