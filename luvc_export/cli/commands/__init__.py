"""The verbs of ``luvc-export``, one a file."""
