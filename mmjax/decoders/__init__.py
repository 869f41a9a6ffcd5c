"""Decoders: what writes text, from text and images."""
