"""Everything this tool promises, tried on one machine and written down: ``luvc-export trial``."""
