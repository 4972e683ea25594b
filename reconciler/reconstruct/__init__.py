"""Bodies in the webhook's shape, built from what GitLab's API tells. Pure: it asks nobody anything."""

from reconciler.reconstruct.material import Material
from reconciler.reconstruct.rebuild import Rebuilt, rebuild

__all__ = ["Material", "Rebuilt", "rebuild"]
