"""The recorder: takes webhooks from the intake in order, and records them in the ledger."""
