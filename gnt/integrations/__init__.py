"""Adapters for trainers, each in a package that is imported only on request, because it needs the trainer's library.

lightning  callbacks for PyTorch Lightning
"""
