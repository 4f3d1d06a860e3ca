"""One thread that runs every model call: prefills between tokens, rows that share calls, an image cache."""
