"""Plans in a bundle: what each is, and which stands in for which."""
