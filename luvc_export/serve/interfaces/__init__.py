"""OpenAI's interfaces: bodies that are read, and the objects that answer."""
