"""Metrics for Prometheus: `meters` are counted as things happen, `collectors` look when Prometheus asks.

A test compares docs/grafana.json and docs/alerts.yaml with what is exposed. Labels are bounded: a source is shown
without the name of its hook, and a kind that GitLab does not have is `other`.
"""

PREFIX = "gitlab_reconciler_"
