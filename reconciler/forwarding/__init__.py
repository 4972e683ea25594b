"""Delivers events from the ledger to destinations. Does not depend on where an event came from."""
