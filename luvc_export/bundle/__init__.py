"""A bundle on disk: the schema of ``luvc.json``, reading it with every check, writing it whole or not at all."""
