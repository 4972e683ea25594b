"""The file itself: opening it, its tables and migrations, its lock, and reading back what is in its columns."""
