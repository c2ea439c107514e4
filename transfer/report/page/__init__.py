"""The HTML page of a report: its figures, galleries, pictures and template."""
