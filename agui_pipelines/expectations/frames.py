"""The pandas frames that suites are run on."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from agui_pipelines.canonical import UNUSABLE
from agui_pipelines.records import Kind
from agui_pipelines.staging import SnapshotReader

_COLUMNS = ["state_id", "size", "traits"]


def state_frame(snapshot: SnapshotReader) -> pd.DataFrame:
    """One row a state: ``state_id``, ``id_length`` (characters), ``size`` (bytes of the document), ``json_valid``."""
    tables = [pa.Table.from_batches([batch]) for batch in snapshot.batches(Kind.STATE, _COLUMNS)]
    schema = pa.schema([("state_id", pa.string()), ("size", pa.int64()), ("traits", pa.uint16())])
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    unusable = pc.bit_wise_and(table["traits"], pa.scalar(UNUSABLE, pa.uint16()))
    return pd.DataFrame(
        {
            "state_id": table["state_id"].to_pandas(),
            "id_length": pc.utf8_length(table["state_id"]).to_pandas(),
            "size": table["size"].to_pandas(),
            "json_valid": pc.equal(unusable, 0).to_pandas(),
        }
    )
