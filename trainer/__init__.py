"""Makes the fleet's models: train, measure, evaluate, export."""
