"""Pictures in: which frames (sampling), from where (readers), as which tensor (transforms).

Layer 1. Knows nothing of prompts, models or streams; only `transforms` needs torch.
"""
