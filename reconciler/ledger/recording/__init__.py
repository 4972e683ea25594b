"""Recording: the single writer, which records sightings, and the matching of sightings to events."""
