"""Send requests to ManageBac. This package manages connections, rate limits, retries, and errors."""
