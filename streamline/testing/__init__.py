"""Tools to test jobs and connectors: public, for users too."""
