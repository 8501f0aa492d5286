"""Training data: lists of sets -> rows -> samples -> opened clips -> layouts -> examples -> batches.

Layer 2: stands on media, prompt and processing; knows no model and no trainer.
"""
