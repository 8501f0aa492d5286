"""The page: a visitor watches a stream, asks about it while it runs, and sees what the model remembers."""
