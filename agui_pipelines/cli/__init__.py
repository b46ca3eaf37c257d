"""``agui-migrate``: the command line. It runs the Dagster jobs in process, on the persisted instance that the UI shows."""
