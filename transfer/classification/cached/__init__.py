"""Protocols on features of one centre crop, which are extracted once and kept."""
