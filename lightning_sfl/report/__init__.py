"""One report value, three renderers: HTML, JSON and wandb."""
