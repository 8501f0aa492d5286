"""Words in: a dialogue with frames becomes token ids and a loss mask."""
