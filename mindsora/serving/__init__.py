"""Jobs that outlive a client: a queue on disk, and processes that make what is in it. For the server and the studio.

asked    what a client asks for: checked when it comes, planned again where it is made
store    the jobs in SQLite, their files in a folder of their own
worker   a process that holds a model
lanes    a thread for each worker: hands it jobs, and replaces it when it ends
access   who may call: token, host names, sizes of bodies
app      the HTTP interface
"""
