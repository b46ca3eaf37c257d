"""The phases of a migration: one public function each, from a session to a frozen report. Nothing here knows Dagster."""
