"""Bytes from and to other registries; it knows nothing of models."""
