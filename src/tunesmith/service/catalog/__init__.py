"""The base models that the service offers, and whose licences a project has accepted."""
