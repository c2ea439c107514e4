"""Networks as the projects that saved a checkpoint compute them, on the file's own names.

The proof runs them beside the converted network. They are written from the papers and the projects'
descriptions, and use none of the converter's tables of names.
"""
