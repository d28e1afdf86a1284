"""How fast this machine trains: the usual PyTorch loop, that loop tuned, and ours, side by side."""
