"""Run a comparison: its order of work, its folder, its record."""
