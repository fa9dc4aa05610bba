"""Retrained every night (after Ash & Adams, NeurIPS 2020, arXiv 1910.08475): each night new images arrive, and a
network is trained on all images so far.

A cold start trains a new network every night; a warm start goes on with last night's, which takes fewer passes. Is it
as good on test images, and do remedies against loss of plasticity help?
"""
