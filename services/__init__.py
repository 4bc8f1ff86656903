"""The reference deployment: five tiny services. Each folder holds an entity and its wiring, nothing else."""
