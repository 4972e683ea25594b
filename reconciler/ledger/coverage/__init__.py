"""Coverage: what was read completely, gaps, the state of each source, and when the service was down."""
