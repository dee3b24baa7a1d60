"""Jobs to read and run: ``streamline run examples/word_count.py``."""
