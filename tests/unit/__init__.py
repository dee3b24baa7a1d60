"""Unit tests: the deciding code and the leaves, without processes, sleeping or mocks."""
