"""Self-supervised methods: backbone, head and loss wired together."""
