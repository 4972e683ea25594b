"""Asks GitLab's API what happened, and returns sightings. Every call to python-gitlab is made here."""
