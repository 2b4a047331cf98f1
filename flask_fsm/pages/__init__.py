"""The door for browsers: decorators on views, and where to go next."""
