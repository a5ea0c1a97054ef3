"""`soundstage doctor`: whether a configuration, and a cluster, are ready for an install, and what to do where not."""
