"""One stream being watched: the session and what it stands on."""
