"""Bodies in the webhook's shape, built from what GitLab's API tells. Pure: it asks nobody anything."""

from reconciler.reconstruct.rebuild import Rebuilt, rebuild
from reconciler.reconstruct.source_data import SourceData

__all__ = ["Rebuilt", "SourceData", "rebuild"]
