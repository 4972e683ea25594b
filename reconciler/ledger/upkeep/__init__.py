"""Keeping the file well: pruning, backups, repairs, and what the service notes of itself."""
