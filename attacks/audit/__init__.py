"""The audit: attacks run on a message log, and what they bring back scored against the truth, cell by cell."""
