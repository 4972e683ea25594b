"""Rebuilds webhook payloads from GitLab's API data. Pure functions: nothing is requested here."""

from reconciler.reconstruct.rebuild import Rebuilt, rebuild
from reconciler.reconstruct.source_data import SourceData

__all__ = ["Rebuilt", "SourceData", "rebuild"]
