"""Language models, and text to train them on."""
