"""gitlab-reconciler: never lose a GitLab event."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gitlab-reconciler")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
