"""The notifier service: mails about attendances, from what the events told it. It asks nobody."""
