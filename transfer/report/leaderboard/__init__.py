"""Many checkpoints over many tasks: groups, ranks with their uncertainty, wins, correlations.

`board` computes everything; `texts` and `wide` write it, and `page` draws it.
"""
