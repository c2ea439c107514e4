"""Detection data sets as lists of records; box conventions live here."""
