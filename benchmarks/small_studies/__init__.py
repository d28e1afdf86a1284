"""Real small studies with their finals: what pruning costs, and what choosing does to an accuracy."""
