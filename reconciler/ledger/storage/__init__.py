"""Storage: opening the file, its tables and migrations, its lock, and reading columns back."""
