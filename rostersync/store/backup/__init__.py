"""Write backups of a database, and restore them."""
