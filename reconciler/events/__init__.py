"""The shared vocabulary: times, sightings, kinds, keys and the matching rule. Knows nothing of any other room."""
