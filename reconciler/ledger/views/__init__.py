"""Views for people and programs: lists, search, single events, dead letters, status. Only the search index writes."""
