"""The tables and views of a database, their upgrade to this version, and who may read the views."""
