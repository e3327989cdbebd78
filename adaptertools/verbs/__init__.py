"""In what order? One file per verb: facts, then a plan, then jobs, then files, then a report."""
