"""Asking GitLab's API what happened. Every call to python-gitlab is made here; what comes out are sightings."""
