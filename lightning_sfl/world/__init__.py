"""The world: what every step and round costs in seconds, joules, bits and bytes of client memory.

``model`` measures a model's profile, ``devices`` and ``channel`` are simulated, ``cost`` puts a round together;
``environments`` holds worlds of the literature, and ``world`` is what one asks.
"""
