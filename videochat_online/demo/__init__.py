"""The page on which visitors watch a stream, ask about it, and see what the model remembers."""
