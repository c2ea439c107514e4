"""The Python entry of pretraining: what `import pretrain` offers, thin over the commands' parts."""
