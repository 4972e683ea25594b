"""The receiver: an ASGI app that accepts GitLab's webhooks and answers 200 when they are on disk."""
