"""Upkeep: pruning, backups, repairs, and what the service notes about itself."""
