"""Result records: how they are made, written, read, grouped and compared."""
