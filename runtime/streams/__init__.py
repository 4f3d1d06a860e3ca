"""Streams of clips: what of them stays in the caches."""
