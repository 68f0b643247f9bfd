"""Write to ManageBac: change single students, or many students from a CSV file."""
