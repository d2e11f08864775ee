"""A remote service with OpenAI's contract, which tunes by itself.

limits   what of a recipe it can honour     rows, files   what is sent there and comes from there
client   the official client                told          its words as our events
executor   the protocol
"""
