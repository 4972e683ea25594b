"""The intake: webhooks as they came, on disk, until they are recorded in the ledger."""
