"""Helpers that no parent library offers."""
