"""The store on a dogpile.cache region alone, and a cache in front of a database."""
