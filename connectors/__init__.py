"""Connectors, imported as ``streamline.connectors``: one file or folder for each system.

A connector imports only what is public in streamline; the seam is ``streamline.io``.
"""
