"""The gateway: attendance at two services, as one. It owns nothing; any number of replicas may run."""
