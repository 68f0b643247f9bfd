"""Send requests to ManageBac: connections, limits, retries, and errors."""
