"""Pictures that clients name by address: ``data:``, files below a folder, hosts on a list."""
