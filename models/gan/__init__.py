"""Generative adversarial networks, one kind a file."""
