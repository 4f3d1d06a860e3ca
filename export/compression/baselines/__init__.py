"""Published and trivial pruning scores, one a file, written from their descriptions; see ``scores`` for the form."""
