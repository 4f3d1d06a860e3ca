"""Models that give vectors and nothing else, one a file, named by their Hugging Face ``model_type``.

Each is a family of ``export.families`` behind another class: a projection in the place of the head, and prompts that
its processor writes itself. Their bundles have one task, ``embed-many`` (``RetrievalFamily``) or ``embed``.
"""
