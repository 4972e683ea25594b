"""The queue: destinations, which event goes to which of them and in which lane, and each delivery's state."""
