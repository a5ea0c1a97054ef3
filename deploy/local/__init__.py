"""The whole of Soundstage on one machine: Temporal's single binary and the five services as processes."""
