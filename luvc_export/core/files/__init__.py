"""Files: opened if regular, written whole or not at all, JSON of strangers, full disks named."""
