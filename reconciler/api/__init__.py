"""The HTTP API, below `/api/v1` on the admin port."""
