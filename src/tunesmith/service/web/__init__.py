"""The web page: it knows the API alone, and can nothing that the API cannot."""
