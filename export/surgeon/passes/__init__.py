"""The passes of graph surgery, one a file."""
