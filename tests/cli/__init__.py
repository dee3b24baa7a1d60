"""The command line as a user meets it: real processes, exit statuses, and what is said."""
