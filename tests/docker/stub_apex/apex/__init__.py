"""Not apex: see ../setup.py."""
