"""`demo`."""


def demo() -> None:
    """Show the whole thing at work on this machine."""
