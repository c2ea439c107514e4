"""The Python entry of transfer: what `import transfer` offers, thin over the commands' parts."""
