"""Azure Machine Learning, for jobs of our worker or of a trainer of its own, and for models that answer.

documents, endpoints   what is submitted, as YAML     settings, parameters   a recipe in the words of its trainer
client                 the official SDK, kept quiet   executor, deployer     the two protocols
"""
