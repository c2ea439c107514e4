"""The report: makes tables, figures and one HTML page of result records."""
