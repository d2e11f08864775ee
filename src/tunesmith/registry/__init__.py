"""Versions of tuned models: what they are made of, where they came from, what uses them.

store      where everything lies: a folder, or an object store through fsspec
names      what a version is called: name:3, name:3@120, name@production
record     one version as data; blobs are its files by their hash
versions   numbers, records, and what takes a version out of use
labels     stages and aliases
references what uses a version
writing    a version's files go in, the record behind them
reading    a version's files come out, every hash checked
collect    what no version needs is removed
card       a version as a page for people and for the hub
"""
