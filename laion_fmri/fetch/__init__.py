"""One job: a run of aws and what came of it. Only the standard library."""
