"""Finds what would stop a run before it starts; tools/doctor.py is the command."""
