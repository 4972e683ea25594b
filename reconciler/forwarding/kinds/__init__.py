"""The kinds of destination, one file each."""
