"""Responses that are kept: read again, gone on from, or made in the background by whichever gateway has the time."""
