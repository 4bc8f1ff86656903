"""The conference service: owns conferences and events, the event half of each attendance, and runs the settler."""
