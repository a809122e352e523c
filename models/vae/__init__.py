"""Variational autoencoders, one kind a file."""
