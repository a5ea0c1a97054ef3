"""A simulated fleet of GPU pods: arrivals, cold starts, and the autoscaler of Kubernetes as it is documented."""
