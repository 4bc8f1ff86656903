"""What every service is made of: settings, problems, routes, signals, logs, health, database, client, tokens."""
