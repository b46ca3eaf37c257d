"""The Dagster assets: one file a phase, each a thin shell around the phase's function in `agui_pipelines.phases`."""
