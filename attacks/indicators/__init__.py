"""Metrics without an attack: they explain what leaks at a cut, and are never the headline."""
