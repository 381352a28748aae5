"""The work of one process: it validates, issues and revokes tokens, and runs the tasks behind that."""
