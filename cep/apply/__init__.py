"""The wanted endpoints of a document, and bringing this host there; no command line in here."""
