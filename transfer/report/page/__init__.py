"""The HTML page of a report: its figures, galleries, pictures and the template around them."""
