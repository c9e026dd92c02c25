"""The model as the world sees it: what every cut computes, holds and sends."""
