"""A pack: a folder that builds and proves a bundle's engines on a device that cannot be reached from here."""
