"""Attacks on smashed data: each rebuilds images from what crossed the cut on its way up."""
