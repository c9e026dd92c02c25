"""Attacks on several messages together."""
