"""The embedded data set: handwritten digits on photographs, with boxes and masks."""
