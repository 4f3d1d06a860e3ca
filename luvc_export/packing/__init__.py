"""Packs: written here, installed and verified on a device (docs/pack.md)."""
