"""All services, the stream and the mail inbox as processes: what holds from a request to the last who hears of it."""
