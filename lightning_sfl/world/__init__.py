"""The world: what a step costs. So far the profile of a model, cut by cut."""
