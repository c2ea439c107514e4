"""Where a detector begins: a backbone, a whole detector, or its parts."""
