"""Training data: lists of sets -> rows -> neutral samples -> examples -> batches.

Layer 2: stands on media, prompt and processing; knows no model and no trainer.
"""
