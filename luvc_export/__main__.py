"""``python -m luvc_export``."""

from luvc_export.cli import main

main()
