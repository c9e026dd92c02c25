"""Allocation policies: what clients are given, decided from what was observed. One file per policy."""
