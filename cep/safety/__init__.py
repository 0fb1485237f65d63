"""What keeps files, words and the account of events safe; for all rooms, standard library only."""
