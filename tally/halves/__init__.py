"""The participant's shell: what one service keeps of a relationship, and the settler that compares both sides.

What is decided is in `tally.protocol`; here it is stored, served and repaired.

    store            what a store of halves does
    postgres         the store of production
    memory           the reference store: the tables of the protocol, item by item
    schema           the SQL of a relationship on one side, from its declaration
    participant      bytes of a message in, bytes of the reply out
    routes           a participant over HTTP
    peer             a participant as gateways and settlers see it
    transport        the network between them: the service's calls
    settler          repairs what a crash left
    leadership       one settler works at a time
    observer         a settler's observer that moves the metrics
    census           counts all seats now and then
    deletions        deletes in parts what very many halves live of
    restore          makes a database whole that is an old copy of itself
    restore_routes   what an operator does about one
    owner            a service that owns one end: all of this, wired
"""
