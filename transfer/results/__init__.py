"""Result records: make, write, read, aggregate."""
