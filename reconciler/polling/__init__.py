"""Polling: reads what happened from GitLab into the ledger, decides what to read when, and keeps coverage."""
