"""Moves agent state into and between AG-UI State Management stores, and proves that nothing was lost on the way."""
