"""A long run killed at random moments, beside the same run undisturbed: equal bits, equal memory.

`python -m analysis.soak --out results/soak --total-steps 10_000_000`
"""
