"""Conversations whose KV caches lie in the host's memory: the caches, their rows, and the slots of conversations."""
