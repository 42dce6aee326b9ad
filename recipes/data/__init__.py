"""What recipes train on: simulated laws, and readers of public files to put in their place."""
