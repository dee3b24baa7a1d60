"""What is shipped: the wheel, what is in it, and that it works where only it is installed."""
