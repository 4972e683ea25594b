"""Helpers for tests: the real service as a process, and ways to look into its ledger."""
