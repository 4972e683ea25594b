"""The dashboard: reads the ledger, and sends events again when asked. Made on the server, live by htmx."""
