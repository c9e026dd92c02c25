"""Labels of records, from the gradients that are sent across the cuts."""
