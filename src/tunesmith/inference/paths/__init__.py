"""What is asked over HTTP and what is answered: OpenAI's paths, who may ask, how errors look."""
