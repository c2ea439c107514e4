"""Networks as the projects that saved a checkpoint compute them, on the file's own names.

The proof runs both these and the converted network. They are written from the papers and projects'
descriptions, and use none of the converter's tables of names.
"""
