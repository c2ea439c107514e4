"""The networks of the projects that saved the checkpoints, on the files' own names.

The proof runs both these and the converted network. They are written from the papers and the
projects' descriptions, without the converter's tables of names.
"""
