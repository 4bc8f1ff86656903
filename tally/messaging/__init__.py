"""Events on their way: the outbox, written in the transaction of the change that an event tells of; the relay that
publishes it; the stream; and the inbox, by which a consumer applies each event once, in the order of its subject."""
