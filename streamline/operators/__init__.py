"""Operators: one file each. The seam is in ``base``; operators never see channels."""
