"""Other people's models, transformers' own classes held by an adapter."""
