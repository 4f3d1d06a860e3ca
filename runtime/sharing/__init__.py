"""What sessions of a plan and its buckets have in common: weights as they are computed with, and scratch memory."""
