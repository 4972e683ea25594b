"""What people and programs look at: lists, searches, one event, dead letters, status. Nothing here writes."""
