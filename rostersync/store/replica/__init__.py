"""A source's students: the comparison with the stage, and the commit of a run in one transaction."""
