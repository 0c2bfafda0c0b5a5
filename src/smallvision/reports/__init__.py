"""Reads what runs wrote and shows it. Imports no torch."""
