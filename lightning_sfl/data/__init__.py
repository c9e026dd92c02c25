"""Whose samples are whose, and in which order and batches every client goes through its own."""
