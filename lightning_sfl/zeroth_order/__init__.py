"""Estimating gradients from forward passes: directions, the estimate made of them, and what was decided so far."""
