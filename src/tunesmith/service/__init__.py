"""The hosted door: an API that OpenAI's clients understand, and what it needs to keep its word.

settings, context     what a service is told, and what every request gets at
db                    tables, connections, migrations
auth                  who asks, and what that one may
errors, ids, lists    OpenAI's forms of failures, names and pages
edge, texts           what happens to every request, and what no text of one may hold
app, __main__         the rooms put together, and the processes that are started

Every resource is a room of its own with router, schema and service; no two know each other.
"""
