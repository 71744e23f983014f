"""Recommender towers: what turns items and users into vectors. Importing this imports no torch."""
