"""Tools and thoughts: how templates have models write them, how answers are read, how grammars hold them."""
