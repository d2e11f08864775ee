"""The processes that answer: started when somebody asks, ended when nobody does."""
