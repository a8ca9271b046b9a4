"""What the networks learn from: sources, the packed store, rooms, augmentation, queries."""
