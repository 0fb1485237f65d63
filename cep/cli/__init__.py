"""The user's door: one file per command family, nothing heavy at import."""
