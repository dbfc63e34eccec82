"""From records and a configuration to checkpoints."""
