"""Puts the parts together: the demo."""
