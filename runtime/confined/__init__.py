"""Programs and files of strangers run in helper processes with limits on time and memory."""
