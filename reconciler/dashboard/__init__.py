"""The dashboard: shows the ledger, and resends events. Rendered on the server, live by htmx."""
