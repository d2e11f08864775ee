"""Where things are kept that several machines need: a folder, or an object store."""
