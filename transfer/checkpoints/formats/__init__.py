"""The formats of checkpoints' keys: `key_format` says what one is, `all_formats` lists them."""
