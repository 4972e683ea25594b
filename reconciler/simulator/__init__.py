"""A small GitLab on a real port, with GitLab's habits and faults on demand; for tests and for the demo.

It shares no code with what it tests: it was written from GitLab's behaviour, not from our reading of it.
"""
