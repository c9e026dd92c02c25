"""Cores of attacks on gradients and updates: they take callables and tensors, and know of no message."""
