"""Reading GitLab's past into the ledger: which projects, sources and windows, and what coverage that earns."""
