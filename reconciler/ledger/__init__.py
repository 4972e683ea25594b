"""The ledger: one SQLite file that holds every event, every sighting and every delivery. All SQL lives here."""
