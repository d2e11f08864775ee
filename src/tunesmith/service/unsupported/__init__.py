"""Parts of OpenAI's and Azure's contract that this service does not have; each says so."""
