"""A node's knowledge of the cluster: the view, the members, and how fresh that knowledge is."""
