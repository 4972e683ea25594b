"""From the ledger to the external services. Reads the ledger, speaks HTTP, never asks where an event came from."""
