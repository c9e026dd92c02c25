"""Servers that deviate from the protocol, and what clients can see of it."""
