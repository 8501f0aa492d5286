"""Training: the two stages of the paper, on a laptop's CPU or many nodes."""
