"""The built-in data set: handwritten digits on photographs, with boxes and masks."""
