"""The pages that are written from the code: protocols, checkpoint formats, config keys.

They are committed, so that they can be read where the repository is read, without building the
site. `tests/docs/test_generated_pages.py` holds them to the code; `python -m docs.generate` writes
them again.
"""
