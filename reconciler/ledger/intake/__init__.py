"""What comes in: the one writer, recording sightings, and the matching rule's answer as events."""
