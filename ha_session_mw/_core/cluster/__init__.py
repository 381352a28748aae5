"""What every node knows of the cluster: the view, the members, and how fresh that knowledge is."""
