"""The author service: owns authors, and the author half of each attendance."""
