"""Text generation over one base model and its adapters, spoken to in OpenAI's chat form; a process of its own."""
