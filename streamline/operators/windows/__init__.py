"""Windows: how time is cut (``assigners``), and the operators that fill and fire windows."""
