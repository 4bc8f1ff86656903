"""The embedded default: PostgreSQL and every service as one command, for a laptop, the tests and the bench.

Nothing here is used in production. It may import the lower rooms, but knows the services only by name: they are
started as `python -m services.author`, like anybody else would start them.

    failure      the one exception: a sentence for the person at the terminal
    processes    what the operating system says about processes and ports
    binaries     where PostgreSQL's programs are, and who may run them
    cluster      the folder of a PostgreSQL cluster: made, checked, deleted
    postgres     EmbeddedPostgres: the server on it
    guardian     ends what we started if we are killed
    child        one supervised process
    lock         one stack per folder
    keys         the key that the local services make their tokens with
    services     THE table: what runs, where, and with which environment
    stack        LocalStack: all of it, as an object that tests can drive
    prometheus   Prometheus beside it, for OBSERVE=1
    control      stops and starts services of a stack that runs in another terminal
    operator     what an operator does to a running stack, on its admin ports
    exports      what a shell needs to ask the databases
    mailbox      the inbox that all mail ends in, and its page
    ask          one plain HTTP request
    console      log lines, one colour per service
    run          `tally run`
    outcomes     what became of an operation, in words
    reports      a restore's report, in words
    walkthrough  the curl lines, as text and as a demonstration that checks itself
"""
