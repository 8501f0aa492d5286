"""The generated world, the benchmarks, and how the small model is made: nothing of the product imports them."""
