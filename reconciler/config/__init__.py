"""`config.yaml`: what may stand in it (models) and how it is read (load)."""
