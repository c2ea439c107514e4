"""What would stop a run, found before it starts: tools/doctor.py."""
