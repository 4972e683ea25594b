"""The running service: `run` builds its parts and ends them in order."""
