"""What was read: intervals, gaps, the state of each source, and when the service was down."""
