"""The kinds of destination, one file for each."""
