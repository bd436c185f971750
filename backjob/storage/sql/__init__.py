"""The store on a database, by SQLAlchemy Core, and all that differs between databases."""
