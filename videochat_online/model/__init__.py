"""Tensors in: encoder, memory bank, connector, language model. Knows no files and no words."""
