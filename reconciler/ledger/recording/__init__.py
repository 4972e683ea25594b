"""Intake: the single writer, recording sightings, and assigning them to events."""
