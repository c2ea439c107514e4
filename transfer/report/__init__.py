"""The report: makes tables, figures and one HTML page from result records."""
