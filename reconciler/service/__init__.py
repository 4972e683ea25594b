"""The running service. `processes` starts receiver and worker; `worker` builds its parts and stops them in order."""
