"""Records in an SQL database, by SQLAlchemy."""
