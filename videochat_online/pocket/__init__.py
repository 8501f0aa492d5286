"""The small model that ships: weights, config, tokenizer, card, clip. How it is made: lab/pocket."""
