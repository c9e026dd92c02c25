"""Figures that explain a curve of leakage without an attack; never the headline."""
