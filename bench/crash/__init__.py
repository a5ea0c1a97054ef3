"""What becomes of videos when processes are killed: a gateway of real processes, and the cases that hurt it."""
