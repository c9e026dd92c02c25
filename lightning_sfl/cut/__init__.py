"""Cutting a module in two: find, verify, pass, halt and inject."""
