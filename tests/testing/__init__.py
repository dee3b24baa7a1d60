"""streamline.testing, and its contract kits applied to what streamline brings."""
