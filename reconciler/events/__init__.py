"""The shared types and rules: times, sightings, kinds, keys and the matching rule. Imports no other package of
ours."""
