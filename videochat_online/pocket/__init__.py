"""The small model that ships: weights, config, tokenizer, and the scripts that make them."""
