"""Complete, commented configurations, and the small modules they name."""
