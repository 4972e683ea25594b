"""The dashboard: shows the ledger, and replays events. Rendered on the server, live by htmx."""
