"""Windows: how time is cut (``assigners``), and the operators that fill and fire windows.

``aligned`` holds tumbling and sliding windows, made of slices, ``session`` those that grow and
merge, ``reached`` what a restored window has fired before; ``specs`` is what the DSL asks for.
They know keys, slices and watermarks, not where records come from.
"""
