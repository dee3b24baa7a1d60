"""The examples and the documentation: what they show is what happens."""
