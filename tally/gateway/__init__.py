"""The gateway of a relationship: creates, cancels and reads it at two participants, and owns nothing.

Any number of gateways may run.

    participants   the two of them: every message coalesced, every reply remembered
    coalescer      carries many operations in one call
    evidence       gathers what both say about one operation
    outcome        what came of a request
    create         creates a relation
    cancel         cancels one
    read           reads those of one entity, from either end
    status         what became of an operation, as both halves tell it
    deferral       takes requests that are to be carried out later
    deferred       carries them out
    operations     what is told of them in the stream, and asked of it
    notes          what gateways note on them, for each other
    control        what operators may do to them
    codes          the error codes of a relationship
    routes         the public HTTP of all this
    history        what the directory knows of operations, for the answers
    report         what the operation log is told
    observer       who watches, and the service's metrics
    service        the gateway as a service
    ui             its page
"""
