"""Attacks on seeds and scalars, which clients that run forward only send in the place of an update."""
