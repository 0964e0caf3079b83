"""Configs of `configs/`, fitted to a user's own set."""
