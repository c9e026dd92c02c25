"""What steps and rounds cost: seconds, joules, bits, and who waits for whom."""
