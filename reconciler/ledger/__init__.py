"""The ledger: one SQLite file with every event, sighting and delivery. All SQL is in this package.

A service uses `ledger.ledger`; commands and the dashboard change a ledger through `ledger.beside`.
"""
