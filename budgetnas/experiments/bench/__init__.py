"""How fast this machine trains: the loop everybody copies, that loop tuned, and ours, side by side."""
