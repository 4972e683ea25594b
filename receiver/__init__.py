"""The front door: a Starlette app that takes GitLab's webhooks and answers when they are on disk."""
