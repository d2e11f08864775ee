"""GGUF files for llama.cpp, Ollama and LM Studio, written without compiling anything."""
