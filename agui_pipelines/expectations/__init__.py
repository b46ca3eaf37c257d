"""Great Expectations suites (JSON, editable) and what runs them, over a snapshot's small columns, never its documents."""
