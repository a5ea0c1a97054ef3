"""Images of the services, and the chart's pods on this machine without Kubernetes."""
