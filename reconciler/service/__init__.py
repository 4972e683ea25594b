"""The running service: `run` builds its parts and stops them in order."""
