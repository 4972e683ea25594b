"""The running service. `processes` starts the receiver and the worker; `worker` builds its parts, and stops them in order."""
