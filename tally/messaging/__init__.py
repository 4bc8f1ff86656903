"""Events on their way: the outbox, written in the transaction of the change that an event tells of."""
