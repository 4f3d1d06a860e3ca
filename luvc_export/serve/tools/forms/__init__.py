"""Call forms that templates write, each with how its calls are read and how grammars write them."""
